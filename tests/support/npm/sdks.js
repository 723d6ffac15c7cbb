// A copy with the SDKs of Graph for browsers: started, followed to its end, its result read.
import { Client, ResponseType } from "@microsoft/microsoft-graph-client";
import { graphfi, GraphBrowser } from "@pnp/graph";
import "@pnp/graph/files";
import "@pnp/graph/users";
import { BearerToken } from "@pnp/queryable";

const follow = (location) =>
  new Promise((resolve, reject) => {
    const percentages = [];
    const events = new EventSource(`${location}/events`);
    const see = (event) => {
      const state = JSON.parse(event.data);
      percentages.push(state.percentageComplete);
      return state;
    };
    events.addEventListener("progress", see);
    for (const kind of ["completed", "failed"])
      events.addEventListener(kind, (event) => {
        const state = see(event);
        events.close();
        resolve({ state, percentages });
      });
    events.onerror = () => events.readyState === EventSource.CLOSED && reject(new Error("the stream was refused"));
  });

const sdks = {
  async "@microsoft/microsoft-graph-client"({ url, item, body, token }) {
    const client = Client.initWithMiddleware({
      baseUrl: url,
      customHosts: new Set([new URL(url).hostname]),
      authProvider: { getAccessToken: async () => token },
    });
    const response = await client.api(`/me/drive/items/${item}/copy`).responseType(ResponseType.RAW).post(body);
    const { state, percentages } = await follow(response.headers.get("Location"));
    return { state, percentages, item: await client.api(url + state.resource).get() };
  },
  async "@pnp/graph"({ url, item, body, token }) {
    const { me } = graphfi().using(GraphBrowser({ baseUrl: `${url}/v1.0` }), BearerToken(token));
    const { state, percentages } = await follow(await me.drive.getItemById(item).copyItem(body));
    return { state, percentages, item: await me.drive.getItemById(state.resourceId)() };
  },
};

globalThis.copy = (name, options) => sdks[name](options);
