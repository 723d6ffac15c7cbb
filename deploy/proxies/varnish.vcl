# Varnish 7.0 or newer in front of one gateway; adapt the line marked CHANGE. tests/system/test_proxies.py runs this file.
# - It speaks no TLS: something in front of it must.
# - Start it with -s Transient=malloc,256m: what a reader has not taken yet is kept there, without a limit by default.
# - Tokens of many kilobytes: -p http_req_hdr_len=64k -p http_req_size=128k -p workspace_client=256k -p workspace_backend=256k.
# - A stream takes two threads: raise -p thread_pool_max.
# - A job's URL is a capability: no varnishncsa with its usual format, which shows paths.
vcl 4.1;

backend gateway {
    .host = "gateway-1"; # CHANGE
    .port = "8000";
    .connect_timeout = 2s;
    .first_byte_timeout = 90s; # longer than GATEWAY_COPY_TIMEOUT
    .between_bytes_timeout = 3700s; # longer than GATEWAY_STREAM_MAX_AGE
}

sub vcl_recv {
    if (req.url ~ "^/metrics(\?|$)") {
        return (synth(404)); # Prometheus scrapes each gateway directly
    }
    set sess.send_timeout = 3700s; # longer than GATEWAY_STREAM_MAX_AGE; the only limit on a reader that takes nothing
    return (pass);
}

sub vcl_backend_error {
    set beresp.http.Access-Control-Allow-Origin = "*"; # constant responses, so any origin may read them
    set beresp.http.Cache-Control = "no-store";
    # EventSource never reconnects after any status but 200.
    if (bereq.method ~ "^(GET|HEAD)$" && (bereq.url ~ "^/(jobs/[^/?]+/events|events)(\?|$)" ||
        (bereq.url ~ "^/jobs/[^/?]+(\?|$)" && bereq.http.Accept ~ "^text/event-stream"))) {
        set beresp.status = 200;
        set beresp.http.Content-Type = "text/event-stream";
        set beresp.body = {"retry: 5000

: no gateway answers, come back

"};
        return (deliver);
    }
    # The copy may be running, and SDKs repeat by themselves on 429, 500, 503 and 504.
    if (bereq.method ~ "^(POST|PATCH)$") {
        set beresp.status = 502;
        set beresp.http.Content-Type = "application/json";
        set beresp.body = """{"error":{"code":"outcomeUnknown","message":"No gateway answered. What was asked for may have been done. A copy may be running: look for the new item in the target folder before you start it again."}}""";
        return (deliver);
    }
}
