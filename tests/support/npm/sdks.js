// A copy with the SDKs of Graph for browsers: started, followed to its end, its result read.
import {
  AllowedHostsValidator,
  BaseBearerTokenAuthenticationProvider,
  HttpMethod,
  RequestInformation,
} from "@microsoft/kiota-abstractions";
import { HeadersInspectionOptions } from "@microsoft/kiota-http-fetchlibrary";
import { Client, ResponseType } from "@microsoft/microsoft-graph-client";
import { BaseGraphRequestAdapter } from "@microsoft/msgraph-sdk-core";
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
  // What the request builders of @microsoft/msgraph-sdk do: the registry has no package with those for drives.
  async "@microsoft/msgraph-sdk-core"({ url, item, body, token }) {
    const hosts = new AllowedHostsValidator(new Set([new URL(url).hostname]));
    const getAuthorizationToken = async (asked) => (hosts.isUrlHostValid(asked) ? token : "");
    const provider = new BaseBearerTokenAuthenticationProvider({
      getAuthorizationToken,
      getAllowedHostsValidator: () => hosts,
    });
    const adapter = new BaseGraphRequestAdapter("v1.0", "1.0.0", provider);
    const request = (method, path) => new RequestInformation(method, url + path, {});
    const headers = new HeadersInspectionOptions({ inspectResponseHeaders: true });
    const post = request(HttpMethod.POST, `/v1.0/me/drive/items/${item}/copy`);
    post.setStreamContent(new TextEncoder().encode(JSON.stringify(body)).buffer, "application/json");
    post.addRequestOptions([headers]);
    await adapter.sendNoResponseContent(post, {});
    const [location] = headers.getResponseHeaders().get("location");
    const { state, percentages } = await follow(location);
    const read = await adapter.sendPrimitive(request(HttpMethod.GET, state.resource), "ArrayBuffer", {});
    return { state, percentages, item: JSON.parse(new TextDecoder().decode(read)) };
  },
};

globalThis.copy = (name, options) => sdks[name](options);
