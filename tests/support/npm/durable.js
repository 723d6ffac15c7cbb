// An orchestration of Durable Functions that starts a copy. Its own classes decide what to do next; this plays the
// extension, which does it. Each request and each wait is told on a line; a wait ends with a line that comes in.
import { createInterface } from "node:readline";
import { HistoryEventType } from "durable-functions/lib/src/history/HistoryEventType.js";
import { Orchestrator } from "durable-functions/lib/src/orchestrations/Orchestrator.js";
import { LatestReplaySchema } from "durable-functions/lib/src/orchestrations/ReplaySchema.js";
import { DFTimerTask } from "durable-functions/lib/src/task/index.js";

const { OrchestratorStarted, ExecutionStarted, TaskCompleted, TimerFired } = HistoryEventType;
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const tell = (told) => console.log(JSON.stringify(told));

const orchestrator = new Orchestrator(function* ({ df }) {
  return yield df.callHttp({
    method: "POST",
    url: process.env.URL,
    headers: { Authorization: "Bearer a-token", "Content-Type": "application/json", "Idempotency-Key": "durable-1" },
    body: { name: "a copy" },
  });
});

let now = new Date("2026-11-28T00:00:00Z");
let location;
const history = [];
const happens = (EventType, more) => history.push({ EventType, EventId: -1, IsPlayed: false, Timestamp: now, ...more });

async function next() {
  const context = {};
  const state = await orchestrator.handle(
    {
      history,
      instanceId: "one",
      isReplaying: false,
      upperSchemaVersion: LatestReplaySchema,
      maximumShortTimerDuration: "6.00:00:00",
      longRunningTimerIntervalDuration: "3.00:00:00",
      defaultHttpAsyncRequestSleepTimeMillseconds: 30000,
    },
    context,
  );
  return { state, open: Object.values(context.df.taskOrchestratorExecutor.openTasks) };
}

// As the extension asks: the first time what it was given, then each Location, absolute, by GET, with the same headers.
async function ask({ httpRequest: { method, uri, headers, content } }) {
  const { "Content-Type": type, ...others } = headers;
  const response = location
    ? await fetch(new URL(location), { headers: others })
    : await fetch(uri, { method, headers, body: content });
  tell({ asks: location ?? uri, status: response.status, retryAfter: response.headers.get("Retry-After") });
  location = response.headers.get("Location");
  return { statusCode: response.status, headers: Object.fromEntries(response.headers), content: await response.text() };
}

happens(OrchestratorStarted);
happens(ExecutionStarted);
for (;;) {
  const { state, open } = await next();
  if (state.isDone) {
    tell({ output: state.output });
    process.exit();
  }
  const timer = open.find((task) => task instanceof DFTimerTask);
  if (timer) {
    const { fireAt } = timer.actionObj;
    tell({ waits: (fireAt - now) / 1000 });
    await lines.next();
    now = fireAt;
    happens(OrchestratorStarted);
    happens(TimerFired, { TimerId: timer.id, FireAt: fireAt });
  } else {
    const [call] = open;
    const answer = await ask(call.actionObj);
    happens(OrchestratorStarted);
    happens(TaskCompleted, { TaskScheduledId: call.id, Result: JSON.stringify(answer) });
  }
}
