// Each client follows a stream as its documents tell, and is never told to close: what it does at the end is its own.
import { EventSource as Ponyfill } from "eventsource";
import { createEventSource } from "eventsource-client";
import { EventSourceParserStream } from "eventsource-parser/stream";
import { EventSourcePolyfill } from "event-source-polyfill";
import { fetchEventSource } from "@microsoft/fetch-event-source";
import { fetchEventSource as sentool } from "@sentool/fetch-event-source";
import Reconnecting from "reconnecting-eventsource";
import { SSE } from "sse.js";

const kinds = ["progress", "completed", "failed", "gone"];

function listen(source, { tell, stop }) {
  for (const kind of kinds)
    source.addEventListener(kind, (event) => tell({ event: kind, id: event.lastEventId, data: event.data }));
  source.addEventListener("error", () => source.readyState === EventSource.CLOSED && stop());
}

function listenToSSE(source, { tell, stop }) {
  for (const kind of kinds)
    source.addEventListener(kind, (event) => tell({ event: kind, id: event.id, data: event.data }));
  source.addEventListener("readystatechange", () => source.readyState === SSE.CLOSED && !source.autoReconnect && stop());
}

const comesBack = () => {
  throw new Error("the stream ended before the job did");
};

const followers = {
  "EventSource": (url, to) => listen(new EventSource(url), to),
  "eventsource": (url, to) => listen(new Ponyfill(url), to),
  "event-source-polyfill": (url, to) => listen(new EventSourcePolyfill(url), to),
  "reconnecting-eventsource": (url, to) => listen(new Reconnecting(url), to),
  "sse.js": (url, to) => listenToSSE(new SSE(url, { autoReconnect: true }), to),
  "sse.js without autoReconnect": (url, to) => listenToSSE(new SSE(url), to),
  "fetch-event-source": (url, { tell }) => fetchEventSource(url, { onmessage: tell, onclose: comesBack }),
  "fetch-event-source without onclose": (url, { tell, stop }) => fetchEventSource(url, { onmessage: tell }).then(stop),
  "@sentool/fetch-event-source": (url, { tell, stop }) =>
    sentool(url, { parseJson: false, onmessage: tell, onerror: stop, done: stop }),
  "eventsource-client": async (url, { tell, stop }) => {
    for await (const event of createEventSource(url)) tell(event);
    stop();
  },
  "eventsource-parser": async (url, { tell, stop }) => {
    try {
      const { body } = await fetch(url);
      const events = body.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream());
      for await (const event of events) tell(event);
    } catch {
      // the connection broke
    }
    stop();
  },
};

const told = {};

function follow(streams) {
  for (const [key, { client, url }] of Object.entries(streams)) {
    const mine = (told[key] = { seen: [], stopped: false });
    const tell = ({ event, id, data }) => {
      if (data) mine.seen.push({ id: String(id), name: event, percentage: JSON.parse(data).percentageComplete });
    };
    followers[client](url, { tell, stop: () => (mine.stopped = true) });
  }
}

const have = ([percentage, keys]) => keys.every((key) => told[key].seen.at(-1)?.percentage === percentage);

Object.assign(globalThis, { told, follow, have });
