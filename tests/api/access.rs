//! Keys and what they open, pages of other origins, the metrics' own port, the audit log.

use reqwest::{Client, Method, RequestBuilder, Response};
use rewarden::http::{self, access::keys::Keys, cors::Origin};
use serde_json::{Value, json};

use crate::helpers::{Log, Service, Setup};

/// One key for each role, and one for two; the administrator's is known by its digest only.
const KEYS: &str = r#"
{"name": "trainer", "key": "score-key", "roles": ["score"]}
{"name": "prometheus", "key": "metrics-key", "roles": ["metrics"]}
{"name": "both", "key": "both-key", "roles": ["score", "metrics"]}
{"name": "root", "key": "sha256:69a5265506c94c77b787a7d7377b7685a0eff82e33920a71e7ee22cd6154953e", "roles": ["admin"]}
"#;

/// What probes ask for, here and of the servers whose dialects are spoken.
const OPEN: [&str; 7] =
    ["/livez", "/readyz", "/health", "/health_generate", "/ping", "/v2/health/live", "/v2/health/ready"];

const PAGE: &str = "https://example.com";

fn config(origins: &[&str]) -> http::Config {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.jsonl");
    std::fs::write(&path, KEYS).unwrap();
    let origins = origins.iter().map(|origin| origin.parse::<Origin>().unwrap()).collect();
    http::Config { keys: Keys::read(&path).unwrap(), origins, ..Default::default() }
}

async fn guarded() -> Service {
    Service::ready_with(Setup { http: config(&[]), ..Setup::default() }).await
}

fn call(service: &Service, method: &str, path: &str, key: Option<&str>) -> RequestBuilder {
    let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
    let request = service.client.request(method, format!("http://{}{path}", service.address));
    match key {
        Some(key) => request.bearer_auth(key),
        None => request,
    }
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

/// Puts something in the place of a path's parameters.
fn filled(path: &str) -> String {
    let mut parts = path.split('{');
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |filled, part| filled + "x" + part.split_once('}').unwrap().1)
}

/// Every method and path of the OpenAPI document.
fn documented() -> Vec<(String, String)> {
    let spec = serde_json::to_value(http::openapi()).unwrap();
    let paths = spec["paths"].as_object().unwrap();
    let of = |(path, item): (&String, &Value)| {
        let methods: Vec<_> = item.as_object().unwrap().keys().cloned().collect();
        methods.into_iter().map(|method| (method, filled(path))).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of).collect()
}

#[tokio::test]
async fn without_a_key_only_probes_are_answered() {
    let service = guarded().await;
    let beside =
        ["/docs", "/docs/", "/docs/swagger-ui.css", "/openapi.json", "/", "/no/such/route", "/livez/"];
    let beside = beside.map(|path| ("get".to_owned(), path.to_owned()));
    let (mut open, mut closed) = (0, 0);
    for (method, path) in documented().into_iter().chain(beside) {
        for (key, code) in [(None, "missing_api_key"), (Some("no-such-key"), "invalid_api_key")] {
            let response = call(&service, &method, &path, key).send().await.unwrap();
            if OPEN.contains(&path.as_str()) {
                assert_eq!(response.status(), 200, "{method} {path}");
                open += 1;
                continue;
            }
            assert_eq!(response.status(), 401, "{method} {path}");
            assert_eq!(response.headers()["www-authenticate"], r#"Bearer realm="rewarden""#);
            let body: Value = response.json().await.unwrap();
            assert_eq!(
                (&body["error"]["code"], &body["error"]["type"]),
                (&json!(code), &json!("authentication_error"))
            );
            assert!(!body.to_string().contains("no-such-key"), "{body}");
            closed += 1;
        }
        let with_key = status(call(&service, &method, &path, Some("admin-key"))).await;
        assert!(with_key != 401 && with_key != 403, "{method} {path}: {with_key}");
    }
    assert!(open >= 4 && closed >= 20, "{open} open, {closed} closed");
}

#[tokio::test]
async fn a_key_opens_what_its_roles_say() {
    let service = guarded().await;
    let table = [
        ("get", "/v1/models", [200, 403, 200, 200]),
        ("get", "/openapi.json", [200, 403, 200, 200]),
        ("get", "/no/such/route", [404, 403, 404, 404]),
        ("get", "/metrics", [403, 200, 200, 200]),
        ("post", "/metrics", [403, 405, 405, 405]),
        ("post", "/v1/load_lora_adapter", [403, 403, 403, 415]),
        ("get", "/livez", [200, 200, 200, 200]),
    ];
    for (method, path, want) in table {
        for (key, want) in ["score-key", "metrics-key", "both-key", "admin-key"].into_iter().zip(want) {
            assert_eq!(
                status(call(&service, method, path, Some(key))).await,
                want,
                "{method} {path} with {key}"
            );
        }
    }
    let body: Value =
        call(&service, "get", "/metrics", Some("score-key")).send().await.unwrap().json().await.unwrap();
    let error = json!({
        "message": "an API key with the role `metrics` is needed", "type": "permission_error", "param": null,
        "code": "missing_role",
    });
    assert_eq!(body["error"], error);
}

#[tokio::test]
async fn a_key_is_shown_in_any_of_three_headers() {
    let service = guarded().await;
    let ask = |headers: &[(&str, &str)]| {
        let request = call(&service, "get", "/v1/models", None);
        status(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)))
    };
    let basic = ("authorization", "Basic b25l");
    assert_eq!(ask(&[("authorization", "Bearer score-key")]).await, 200);
    assert_eq!(ask(&[("authorization", "bearer score-key")]).await, 200);
    assert_eq!(ask(&[("x-api-key", "score-key")]).await, 200);
    assert_eq!(ask(&[("api-key", "score-key")]).await, 200);
    assert_eq!(ask(&[basic, ("x-api-key", "score-key")]).await, 200);
    assert_eq!(ask(&[("x-api-key", "wrong"), ("api-key", "score-key")]).await, 200);
    assert_eq!(ask(&[basic]).await, 401);
    assert_eq!(ask(&[("authorization", "score-key")]).await, 401);
    assert_eq!(ask(&[("x-api-key", "Bearer score-key")]).await, 401);
    assert_eq!(ask(&[("x-api-key", "score-key "), ("x-api-key", "score-kez")]).await, 200);
    // What the file holds of the administrator's key does not open anything.
    let digest = KEYS.split("sha256:").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(ask(&[("x-api-key", digest)]).await, 401);
    assert_eq!(ask(&[("x-api-key", &format!("sha256:{digest}"))]).await, 401);
}

/// The page is static, but a route like others; a browser is asked for the key, a script is not.
#[tokio::test]
async fn a_browser_is_asked_for_the_key_as_a_password() {
    let service = guarded().await;
    let get = |accept: &str| call(&service, "get", "/", None).header("accept", accept);
    let challenge = |response: Response| response.headers()["www-authenticate"].to_str().unwrap().to_owned();
    let page = get("text/html,*/*;q=0.8").send().await.unwrap();
    assert_eq!(page.status(), 401);
    assert!(challenge(page).starts_with("Basic realm="));
    assert!(challenge(get("*/*").send().await.unwrap()).starts_with("Bearer"));
    assert_eq!(status(get("text/html").basic_auth("me", Some("score-key"))).await, 200);
    assert_eq!(status(get("text/html").basic_auth("me", Some("other"))).await, 401);
}

#[tokio::test]
async fn a_request_is_refused_before_it_is_read() {
    let service = guarded().await;
    let request = service.post("/v1/rewards").header("content-type", "application/json").body("{");
    assert_eq!(status(request.try_clone().unwrap()).await, 401);
    assert_eq!(status(request.bearer_auth("score-key")).await, 400);
    let body = json!({"items": [{"text": "x"}]});
    assert_eq!(status(service.post("/v1/rewards").json(&body).bearer_auth("score-key")).await, 200);
    assert_eq!(service.batches.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn without_keys_everyone_may_do_all_but_what_administrators_do() {
    let service = Service::ready().await;
    assert_eq!(service.get("/v1/models").await.status(), 200);
    assert_eq!(service.get("/metrics").await.status(), 200);
    assert_eq!(status(call(&service, "get", "/v1/models", Some("any-key"))).await, 200);
    for key in [None, Some("any-key")] {
        assert_eq!(status(call(&service, "post", "/v1/load_lora_adapter", key)).await, 403);
    }
}

#[tokio::test]
async fn the_name_of_a_key_is_logged_and_never_the_key() {
    let log = Log::start();
    let service = guarded().await;
    for (key, name, id) in
        [("score-key", json!("trainer"), "log-known"), ("unknown-key", Value::Null, "log-unknown")]
    {
        let request = call(&service, "get", "/v1/models", Some(key)).header("x-request-id", id);
        request.send().await.unwrap();
        let lines = log.of(id);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0]["span"]["key"], name);
    }
    let text = log.text();
    assert!(!text.contains("score-key") && !text.contains("unknown-key"), "{text}");
}

#[tokio::test]
async fn the_audit_log_says_who_did_what_and_how_it_ended() {
    let log = Log::start();
    let service = guarded().await;
    let what = "POST /v1/load_lora_adapter";
    let table = [
        (None, "-", 401, "audit-nobody"),
        (Some("unknown-key"), "-", 401, "audit-stranger"),
        (Some("score-key"), "trainer", 403, "audit-trainer"),
        (Some("admin-key"), "root", 415, "audit-root"),
    ];
    for (key, who, status, id) in table {
        let request =
            call(&service, "post", "/v1/load_lora_adapter?lora_name=x", key).header("x-request-id", id);
        assert_eq!(request.send().await.unwrap().status(), status);
        let mut lines = log.of(id);
        lines.retain(|line| line["target"] == "rewarden::audit");
        assert_eq!(lines.len(), 1, "{lines:?}");
        let want = json!({"message": "admin", "who": who, "what": what, "status": status});
        assert_eq!(lines[0]["fields"], want);
    }
    let request = call(&service, "get", "/v1/models", Some("admin-key")).header("x-request-id", "audit-not");
    request.send().await.unwrap();
    assert!(log.of("audit-not").iter().all(|line| line["target"] != "rewarden::audit"));
}

fn allowed(response: &Response) -> Option<&str> {
    Some(response.headers().get("access-control-allow-origin")?.to_str().unwrap())
}

async fn preflight(service: &Service, origin: &str) -> Response {
    let request = call(service, "options", "/v1/rewards", None).header("origin", origin);
    let request = request.header("access-control-request-method", "POST");
    request.header("access-control-request-headers", "authorization,content-type").send().await.unwrap()
}

#[tokio::test]
async fn pages_of_named_origins_may_call_with_their_key() {
    let service = Service::ready_with(Setup { http: config(&[PAGE]), ..Setup::default() }).await;
    let answer = preflight(&service, PAGE).await;
    assert_eq!((answer.status().as_u16(), allowed(&answer)), (200, Some(PAGE)));
    assert_eq!(answer.headers()["access-control-allow-methods"], "POST");
    assert_eq!(answer.headers()["access-control-allow-headers"], "authorization,content-type");
    assert!(!answer.headers().contains_key("access-control-allow-credentials"));
    for other in ["https://example.com.evil.org", "http://example.com", "https://example.com:8443", "null"] {
        assert_eq!(allowed(&preflight(&service, other).await), None, "{other}");
    }
    // A page can read refusals too.
    for (key, status) in [(None, 401), (Some("metrics-key"), 403), (Some("score-key"), 200)] {
        let answer = call(&service, "get", "/v1/models", key).header("origin", PAGE).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), allowed(&answer)), (status, Some(PAGE)));
        let exposed = answer.headers()["access-control-expose-headers"].to_str().unwrap();
        for name in ["x-request-id", "x-rewarden-model", "retry-after", "server-timing", "x-total-time"] {
            assert!(exposed.split(',').any(|exposed| exposed == name), "{name}: {exposed}");
        }
    }
}

#[tokio::test]
async fn pages_of_other_origins_may_not_call_unless_all_may() {
    let service = guarded().await;
    let answer = preflight(&service, PAGE).await;
    assert_eq!((answer.status().as_u16(), allowed(&answer)), (401, None));
    let service = Service::ready_with(Setup { http: config(&[PAGE, "*"]), ..Setup::default() }).await;
    assert_eq!(allowed(&preflight(&service, "https://another.org").await), Some("*"));
}

#[tokio::test]
async fn metrics_with_a_port_of_their_own_are_only_there() {
    let setup = Setup { http: config(&[]), apart: true, ..Setup::default() };
    let mut service = Service::ready_with(setup).await;
    assert_eq!(status(call(&service, "get", "/metrics", Some("both-key"))).await, 404);
    assert_eq!(status(call(&service, "get", "/v1/models", Some("both-key"))).await, 200);
    let apart = service.metrics.unwrap();
    let ask =
        |path: &str, key: &str| service.client.get(format!("http://{apart}{path}")).bearer_auth(key).send();
    assert_eq!(ask("/metrics", "no-such-key").await.unwrap().status(), 401);
    assert_eq!(ask("/metrics", "score-key").await.unwrap().status(), 403);
    assert_eq!(ask("/v1/models", "both-key").await.unwrap().status(), 404);
    let text = ask("/metrics", "metrics-key").await.unwrap().text().await.unwrap();
    assert!(text.contains(r#"rewarden_requests_total{code="200",route="/v1/models"} 1"#), "{text}");
    service.shutdown.take().unwrap().send(()).unwrap();
    service.server.await.unwrap().unwrap();
    let refused =
        Client::builder().no_proxy().build().unwrap().get(format!("http://{apart}/metrics")).send().await;
    assert!(refused.unwrap_err().is_connect());
}

#[tokio::test]
async fn a_body_may_not_nest_too_deep() {
    let service = Service::ready().await;
    let ask = async |levels: usize| {
        let content = "[".repeat(levels) + &"]".repeat(levels);
        let body = format!(r#"{{"items":[{{"messages":[{{"role":"user","content":{content}}}]}}]}}"#);
        let request = service.post("/v1/rewards").header("content-type", "application/json").body(body);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap()["error"]["code"].clone())
    };
    // Five are open around the content.
    assert_eq!(ask(27).await, (422, json!("invalid_field")));
    assert_eq!(ask(28).await, (400, json!("too_deep")));
    assert_eq!(ask(100_000).await, (400, json!("too_deep")));
}

#[test]
fn the_document_says_which_role_each_route_needs() {
    let spec = serde_json::to_value(http::openapi()).unwrap();
    let schemes = &spec["components"]["securitySchemes"];
    assert_eq!(
        (&schemes["bearer"]["type"], &schemes["bearer"]["scheme"]),
        (&json!("http"), &json!("bearer"))
    );
    for name in ["x-api-key", "api-key"] {
        let header = &schemes[name];
        assert_eq!(
            (&header["type"], &header["in"], &header["name"]),
            (&json!("apiKey"), &json!("header"), &json!(name))
        );
    }
    for (path, method, role) in [("/v1/rewards", "post", "score"), ("/metrics", "get", "metrics")] {
        let operation = &spec["paths"][path][method];
        let want = json!([{}, {"bearer": [role]}, {"x-api-key": [role]}, {"api-key": [role]}]);
        assert_eq!(operation["security"], want, "{path}");
        let body = json!({"$ref": "#/components/schemas/ErrorBody"});
        for status in ["401", "403"] {
            assert_eq!(
                operation["responses"][status]["content"]["application/json"]["schema"], body,
                "{path}"
            );
        }
    }
    assert_eq!(spec["paths"]["/livez"]["get"].get("security"), None);
}
