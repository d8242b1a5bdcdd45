//! Adapters that come and go: who may, from where, on which conditions, and what requests that are under way see of it.

use std::{collections::BTreeSet, path::Path, time::Duration};

use reqwest::{RequestBuilder, Response};
use rewarden::http::{self, access::keys::Keys};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::helpers::{BYTES, Hold, Log, Service, Setup, adapters};

const KEYS: &str = r#"
{"name": "trainer", "key": "score-key", "roles": ["score"]}
{"name": "root", "key": "admin-key", "roles": ["admin"]}
"#;

struct Swapped {
    service: Service,
    root: TempDir,
}

impl Swapped {
    /// A service of `bayes` and `plain`, to which the adapters `one`, `two`, .. below a root may come.
    async fn ready(most: Option<u64>) -> Self {
        Self::ready_with(most, Hold::default()).await
    }

    async fn ready_with(most: Option<u64>, hold: Hold) -> Self {
        let root = tempfile::tempdir().unwrap();
        for (offset, name) in (1..).zip(["one", "two", "three"]) {
            adapter(root.path(), name, &offset.to_string());
        }
        let keys = root.path().join("keys.jsonl");
        std::fs::write(&keys, KEYS).unwrap();
        let http = http::Config { keys: Keys::read(&keys).unwrap(), ..Default::default() };
        let adapters = Some(adapters(root.path(), most, &hold));
        let service = Service::ready_with(Setup { http, adapters, ..Setup::default() }).await;
        Self { service, root }
    }

    fn change(&self, path: &str, body: &Value) -> RequestBuilder {
        self.service.post(path).bearer_auth("admin-key").json(body)
    }

    async fn load(&self, name: &str, path: &str) -> Response {
        self.change("/v1/load_lora_adapter", &json!({"lora_name": name, "lora_path": path}))
            .send()
            .await
            .unwrap()
    }

    async fn replace(&self, name: &str, path: &str) -> Response {
        let body = json!({"lora_name": name, "lora_path": path, "load_inplace": true});
        self.change("/v1/load_lora_adapter", &body).send().await.unwrap()
    }

    async fn unload(&self, name: &str) -> Response {
        self.change("/v1/unload_lora_adapter", &json!({"lora_name": name})).send().await.unwrap()
    }

    fn rewards(&self, model: &str, texts: &[&str]) -> RequestBuilder {
        let items: Vec<Value> = texts.iter().map(|text| json!({"text": text})).collect();
        self.service
            .post("/v1/rewards")
            .bearer_auth("score-key")
            .json(&json!({"model": model, "items": items}))
    }

    /// The mean of one word by a model, or the status.
    async fn mean(&self, model: &str) -> Result<f64, u16> {
        let response = self.rewards(model, &["w"]).send().await.unwrap();
        match response.status().as_u16() {
            200 => Ok(response.json::<Value>().await.unwrap()["data"][0]["mean"].as_f64().unwrap()),
            status => Err(status),
        }
    }

    async fn names(&self) -> Vec<String> {
        let models = self.service.client.get(format!("http://{}/v1/models", self.service.address));
        let models: Value = models.bearer_auth("score-key").send().await.unwrap().json().await.unwrap();
        models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().into()).collect()
    }
}

fn adapter(root: &Path, name: &str, offset: &str) {
    std::fs::create_dir_all(root.join(name)).unwrap();
    std::fs::write(root.join(name).join("offset"), offset).unwrap();
}

fn fingerprint(response: &Response) -> String {
    response.headers()["x-rewarden-model"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_adapter_comes_is_replaced_and_goes() {
    let swapped = Swapped::ready(None).await;
    assert_eq!(swapped.mean("judge").await, Err(404));
    let loaded = swapped.load("judge", "one").await;
    assert_eq!((loaded.status().as_u16(), fingerprint(&loaded)), (200, "v1".into()));
    assert_eq!(loaded.text().await.unwrap(), "Success: LoRA adapter 'judge' added successfully.");
    assert_eq!(swapped.mean("judge").await, Ok(1.2));
    assert_eq!(swapped.load("judge", "two").await.status(), 400, "it is there already");
    assert_eq!(swapped.mean("judge").await, Ok(1.2));
    assert_eq!(swapped.replace("judge", "two").await.status(), 200);
    assert_eq!(swapped.mean("judge").await, Ok(2.2));
    assert_eq!(swapped.names().await, ["bayes", "plain", "judge"]);
    assert_eq!(swapped.unload("judge").await.status(), 200);
    assert_eq!(swapped.mean("judge").await, Err(404));
    assert_eq!(swapped.unload("judge").await.status(), 404);
}

#[tokio::test]
async fn what_came_with_the_start_can_be_replaced_and_the_default_stays() {
    let swapped = Swapped::ready(None).await;
    assert_eq!(swapped.mean("bayes").await, Ok(0.2));
    assert_eq!(swapped.replace("bayes", "one").await.status(), 200);
    assert_eq!(swapped.mean("bayes").await, Ok(1.2));
    assert_eq!(swapped.unload("bayes").await.status(), 400, "it is the default");
    assert_eq!(swapped.unload("plain").await.status(), 200);
    assert_eq!(swapped.names().await, ["bayes"]);
}

#[tokio::test]
async fn sglang_is_told_what_has_come() {
    let swapped = Swapped::ready(None).await;
    for (name, path) in [("a", "one"), ("b", "two")] {
        let body = json!({"lora_name": name, "lora_path": path});
        assert_eq!(swapped.change("/load_lora_adapter", &body).send().await.unwrap().status(), 200);
    }
    let body = json!({"lora_name": "a"});
    let left = swapped.change("/unload_lora_adapter", &body).send().await.unwrap();
    let left: Value = left.json().await.unwrap();
    assert_eq!(left, json!({"success": true, "error_message": "", "loaded_adapters": {"b": "two"}}));
    let twice = swapped.change("/unload_lora_adapter", &body).send().await.unwrap();
    assert_eq!(twice.status(), 400);
    assert!(twice.json::<Value>().await.unwrap()["error"]["message"].is_string());
}

#[tokio::test]
async fn only_administrators_change_adapters_and_the_log_says_who_did() {
    let log = Log::start();
    let swapped = Swapped::ready(None).await;
    for (key, status) in [(None, 401), (Some("score-key"), 403), (Some("no-key"), 401)] {
        for path in
            ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/load_lora_adapter", "/unload_lora_adapter"]
        {
            let request = swapped.service.post(path).json(&json!({"lora_name": "a", "lora_path": "one"}));
            let request = match key {
                Some(key) => request.bearer_auth(key),
                None => request,
            };
            assert_eq!(request.send().await.unwrap().status(), status, "{path} {key:?}");
        }
    }
    let request = json!({"lora_name": "judge", "lora_path": "one"});
    let request = swapped.change("/v1/load_lora_adapter", &request).header("x-request-id", "swap-1");
    assert_eq!(request.send().await.unwrap().status(), 200);
    let lines = log.of("swap-1");
    let said = |message: &str| lines.iter().find(|line| line["fields"]["message"] == message).unwrap();
    let loaded = said("loaded");
    assert_eq!((&loaded["target"], &loaded["span"]["key"]), (&json!("rewarden::audit"), &json!("root")));
    assert_eq!(loaded["fields"]["fingerprint"], "v1");
    assert_eq!(said("admin")["fields"]["status"], 200);
}

#[tokio::test]
async fn without_a_root_nobody_changes_adapters() {
    let service = Service::ready().await;
    let body = json!({"lora_name": "a", "lora_path": "one"});
    // Without keys nobody is an administrator.
    assert_eq!(service.ask("/v1/load_lora_adapter", &body).await.0, 403);
    let root = tempfile::tempdir().unwrap();
    let keys = root.path().join("keys.jsonl");
    std::fs::write(&keys, KEYS).unwrap();
    let http = http::Config { keys: Keys::read(&keys).unwrap(), ..Default::default() };
    let service = Service::ready_with(Setup { http, ..Setup::default() }).await;
    let refused =
        service.post("/v1/load_lora_adapter").bearer_auth("admin-key").json(&body).send().await.unwrap();
    assert_eq!(refused.status(), 403);
    assert!(refused.text().await.unwrap().contains("--adapter-root"));
}

#[tokio::test]
async fn nothing_comes_from_elsewhere() {
    let swapped = Swapped::ready(None).await;
    let (root, outside) = (swapped.root.path(), tempfile::tempdir().unwrap());
    adapter(outside.path(), "secret", "9");
    std::os::unix::fs::symlink(outside.path().join("secret"), root.join("link")).unwrap();
    std::fs::create_dir(root.join("files")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret/offset"), root.join("files/offset")).unwrap();
    std::os::unix::fs::symlink(root.join("one"), root.join("inside")).unwrap();
    let secret = outside.path().join("secret").display().to_string();
    let up = format!("../{}/secret", outside.path().file_name().unwrap().to_str().unwrap());
    for path in [&secret, &up, "link", "files", "..", "one/../../..", "nowhere", "keys.jsonl", "one\0", ""] {
        // The root itself has no adapter in it.
        let status = swapped.load("judge", path).await.status();
        assert_eq!(status, 400, "{path:?}");
    }
    for path in ["inside", &root.join("two").display().to_string(), "./three", "one/../two"] {
        assert_eq!(swapped.replace("judge", path).await.status(), 200, "{path:?}");
    }
}

#[tokio::test]
async fn what_is_broken_changes_nothing() {
    let swapped = Swapped::ready(None).await;
    assert_eq!(swapped.load("judge", "one").await.status(), 200);
    // One cannot be read, the other fails its first scoring.
    adapter(swapped.root.path(), "unreadable", "many");
    adapter(swapped.root.path(), "failing", "-1");
    for path in ["unreadable", "failing"] {
        let refused = swapped.replace("judge", path).await;
        assert_eq!(refused.status(), 400, "{path}");
        let error: Value = refused.json().await.unwrap();
        assert_eq!(error["error"]["param"], "lora_path", "{error}");
        assert_eq!(swapped.mean("judge").await, Ok(1.2));
    }
    for name in ["", "a b", &"a".repeat(200)] {
        assert_eq!(swapped.load(name, "one").await.status(), 400, "{name:?}");
    }
}

#[tokio::test]
async fn a_change_on_a_condition_is_made_if_it_holds() {
    let swapped = Swapped::ready(None).await;
    let ask = async |path: &str, header: &str, value: &str| {
        let body = json!({"lora_name": "judge", "lora_path": path, "load_inplace": true});
        let request = swapped.change("/v1/load_lora_adapter", &body).header(header, value);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(ask("one", "if-match", "\"v1\"").await, 412, "there is none");
    assert_eq!(ask("one", "if-none-match", "*").await, 200);
    assert_eq!(ask("two", "if-none-match", "*").await, 412);
    assert_eq!(ask("two", "if-match", "\"v9\"").await, 412);
    assert_eq!(swapped.mean("judge").await, Ok(1.2));
    assert_eq!(ask("two", "if-match", "\"v1\"").await, 200);
    assert_eq!(swapped.mean("judge").await, Ok(2.2));
    // Of several who want to replace the same one, one does.
    let (a, b, c) = tokio::join!(
        ask("one", "if-match", "\"v2\""),
        ask("one", "if-match", "\"v2\""),
        ask("one", "if-match", "\"v2\"")
    );
    let mut all = [a, b, c];
    all.sort_unstable();
    assert_eq!(all, [200, 412, 412]);
}

#[tokio::test]
async fn who_was_not_asked_for_longest_makes_room() {
    let swapped = Swapped::ready(Some(2 * BYTES)).await;
    for (name, path) in [("a", "one"), ("b", "two")] {
        assert_eq!(swapped.load(name, path).await.status(), 200);
    }
    swapped.mean("a").await.unwrap();
    assert_eq!(swapped.load("c", "three").await.status(), 200);
    assert_eq!(swapped.names().await, ["bayes", "plain", "a", "c"]);
    // What is replaced is no longer in the way.
    assert_eq!(swapped.replace("a", "two").await.status(), 200);
    assert_eq!(swapped.names().await, ["bayes", "plain", "a", "c"]);
    // What is pinned, and what has the place of one that came with the start, stays.
    let pinned = json!({"lora_name": "c", "lora_path": "one", "load_inplace": true, "pinned": true});
    assert_eq!(swapped.change("/load_lora_adapter", &pinned).send().await.unwrap().status(), 200);
    for path in ["one", "two"] {
        assert_eq!(swapped.replace("bayes", path).await.status(), 200);
        assert_eq!(swapped.names().await, ["bayes", "plain", "c"]);
    }
    let refused = swapped.load("d", "two").await;
    assert_eq!(refused.status(), 507);
    assert_eq!(swapped.names().await, ["bayes", "plain", "c"]);
}

#[tokio::test]
async fn what_goes_takes_its_metrics_along() {
    let swapped = Swapped::ready(None).await;
    let series = async || {
        let request = swapped.service.client.get(format!("http://{}/metrics", swapped.service.address));
        let text = request.bearer_auth("admin-key").send().await.unwrap().text().await.unwrap();
        text.lines().filter(|line| line.contains(r#"model="judge""#)).count()
    };
    swapped.load("judge", "one").await;
    swapped.mean("judge").await.unwrap();
    assert!(series().await > 0);
    swapped.unload("judge").await;
    assert_eq!(series().await, 0);
}

#[tokio::test]
async fn requests_that_are_under_way_keep_their_model() {
    let hold = Hold::default();
    let swapped = Swapped::ready_with(None, hold.clone()).await;
    swapped.load("judge", "one").await;
    let queued = swapped.service.metric_by("admin-key", TOKENISED).await;
    hold.shut();
    // One is being scored, and more wait.
    let mut asked = Vec::new();
    for _ in 0..3 {
        asked.push(tokio::spawn(swapped.rewards("judge", &["w", "x"]).send()));
    }
    swapped
        .service
        .until(async || swapped.service.metric_by("admin-key", TOKENISED).await == queued + 3.0)
        .await;
    // The new one is warmed up before it comes, which the hold keeps from ending.
    let changed = tokio::spawn({
        let body = json!({"lora_name": "judge", "lora_path": "two", "load_inplace": true});
        swapped.change("/v1/load_lora_adapter", &body).send()
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!changed.is_finished());
    hold.open();
    assert_eq!(changed.await.unwrap().unwrap().status(), 200);
    for asked in asked {
        let answer = asked.await.unwrap().unwrap();
        assert_eq!(fingerprint(&answer), "v1");
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["data"][0]["mean"], 1.2);
    }
    let answer = swapped.rewards("judge", &["w"]).send().await.unwrap();
    assert_eq!(fingerprint(&answer), "v2");
}

const TOKENISED: &str = r#"rewarden_stage_seconds_count{stage="tokenize"}"#;

/// Clients ask while the model is replaced, over and over: no answer mixes two, and each names the one that it is of.
#[tokio::test(flavor = "multi_thread")]
async fn swaps_under_load_never_mix_generations() {
    const SWAPS: usize = 40;
    let swapped = Swapped::ready(None).await;
    assert_eq!(swapped.load("judge", "one").await.status(), 200);
    let ended = std::sync::atomic::AtomicBool::new(false);
    let client = async |route: &str| {
        let mut seen = BTreeSet::new();
        while !ended.load(std::sync::atomic::Ordering::Relaxed) {
            let texts = ["w", "w x", "w x y", "w x y z"];
            let body = json!({"model": "judge", "items": texts.map(|text| json!({"text": text}))});
            let answer =
                swapped.service.post(route).bearer_auth("score-key").json(&body).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{route}");
            let name = fingerprint(&answer);
            let text = answer.text().await.unwrap();
            let means = means(&text);
            let sums = [0.2, 0.5, 0.9, 1.4];
            assert_eq!(means.len(), sums.len(), "{text}");
            for (mean, sum) in means.iter().zip(sums) {
                assert_eq!(format!("v{}", (mean - sum).round()), name, "{text}");
            }
            seen.insert(name);
        }
        seen
    };
    let swaps = async {
        for swap in 0..SWAPS {
            let path = ["two", "three", "one"][swap % 3];
            assert_eq!(swapped.replace("judge", path).await.status(), 200);
        }
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let (rewards, streams, others, ()) =
        tokio::join!(client("/v1/rewards"), client("/v1/rewards/stream"), client("/v1/rewards"), swaps);
    let seen: BTreeSet<String> = [rewards, streams, others].into_iter().flatten().collect();
    assert_eq!(seen.len(), 3, "every one of the three was seen: {seen:?}");
}

/// The means of an answer, in one piece or by lines.
fn means(text: &str) -> Vec<f64> {
    let mean = |reward: &Value| reward["mean"].as_f64();
    match serde_json::from_str::<Value>(text) {
        Ok(answer) if answer["data"].is_array() => {
            answer["data"].as_array().unwrap().iter().filter_map(mean).collect()
        }
        _ => text.lines().filter_map(|line| mean(&serde_json::from_str(line).unwrap())).collect(),
    }
}
