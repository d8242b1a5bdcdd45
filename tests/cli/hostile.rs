//! Models that are meant to do harm: each is refused with a message, and the service goes on.

use std::{
    fs::File,
    process::{Child, Command},
    time::{Duration, Instant},
};

use reqwest::Response;
use serde_json::{Value, json};

use crate::helpers::{Serving, Workspace, assert_says, copy};

const KEYS: &str = r#"{"name": "root", "key": "admin-key", "roles": ["admin"]}"#;
const SERVE: &str = "serve --port 0 --model base --adapter adapter";
/// Much more than a refusal takes.
const SOON: Duration = Duration::from_secs(20);

/// Starts the service with a chat template, which it must serve, or refuse by a message: that is returned.
fn started(workspace: &Workspace, template: &str) -> Option<String> {
    workspace.write("base/chat_template.jinja", template);
    let log = File::create(workspace.path("log")).unwrap();
    let mut program = workspace.command(SERVE).stderr(log).spawn().unwrap();
    let (begun, said) = (Instant::now(), || String::from_utf8(workspace.read("log")).unwrap());
    let is_over =
        |program: &mut Child| program.try_wait().unwrap().is_some() || said().contains("listening on");
    while !is_over(&mut program) && begun.elapsed() < SOON {
        std::thread::sleep(Duration::from_millis(20));
    }
    // An error says that it has ended by itself.
    drop(program.kill());
    let (status, said) = (program.wait().unwrap(), said());
    if said.contains("listening on") {
        return None;
    }
    assert_eq!(status.code(), Some(1), "{}: {said}", &template[..40]);
    Some(said)
}

#[test]
fn a_template_that_nests_without_end_ends_nothing() {
    let workspace = Workspace::new("llama-0");
    let times = |text: &str| text.repeat(22_000 / text.len());
    let nested = [
        format!("{{{{ {}x{} }}}}", times("("), times(")")),
        format!("{{{{ {}x{} }}}}", times("["), times("]")),
        format!("{{{{ {}x }}}}", times("not ")),
        format!("{{{{ {}x }}}}", times("-")),
        format!("{}{}", times("{% if x %}"), times("{% endif %}")),
        format!("{{{{ {}x{} }}}}", times("f("), times(")")),
        format!("{{{{ {}x{} }}}}", times("{'a': "), times("}")),
    ];
    let refused: Vec<String> = nested.iter().filter_map(|template| started(&workspace, template)).collect();
    refused.iter().for_each(|message| assert_says(message, &["chat_template.jinja: "]));
    assert!(refused.len() >= 4, "{refused:?}");
}

/// A service whose template does what the first message says.
async fn serving(workspace: &Workspace) -> Serving {
    let template = "{% set asked = messages[0].content %}{% set ns = namespace(s=asked) %}\
        {% if asked == 'double' %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{% endif %}\
        {% if asked == 'repeat' %}{{ ([1] * 1000000000) | length }}{{ ('x' * 100000000000) | length }}{% endif %}\
        {% if asked == 'search' %}{% for i in range(20) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}\
        {% for i in range(100000) %}{% if (ns.s ~ 'y') in ns.s %}y{% endif %}{% endfor %}{% endif %}\
        {% if asked == 'deep' %}{% for i in range(90000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}{% endif %}\
        {% for m in messages %}{{ m.content }}{% endfor %}";
    workspace.write("base/chat_template.jinja", template);
    Serving::ready(workspace.command(SERVE)).await
}

async fn ask(serving: &Serving, said: &str) -> (u16, String) {
    let body = json!({"items": [{"messages": [{"role": "user", "content": said}]}]});
    let answer = serving.post("/v1/rewards").json(&body).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn a_template_that_takes_all_there_is_ends_alone() {
    let workspace = Workspace::new("llama-0");
    let serving = serving(&workspace).await;
    for said in ["double", "repeat", "search", "deep"] {
        let started = Instant::now();
        let (status, answer) = ask(&serving, said).await;
        assert_eq!(status, 422, "{said}: {answer}");
        assert_says(&answer, &["refused by the chat template: "]);
        assert!(started.elapsed() < SOON, "{said}: {:?}", started.elapsed());
        let (status, answer) = ask(&serving, "hello").await;
        assert_eq!(status, 200, "{said}: {answer}");
    }
}

async fn load(serving: &Serving, path: &str) -> Response {
    let body = json!({"lora_name": "judge", "lora_path": path, "load_inplace": true});
    serving.post("/v1/load_lora_adapter").bearer_auth("admin-key").json(&body).send().await.unwrap()
}

#[tokio::test]
async fn an_adapter_that_is_no_file_or_claims_a_terabyte_is_refused() {
    let workspace = Workspace::new("llama-0");
    workspace.write("keys.jsonl", KEYS);
    let root = workspace.path("root");
    for name in ["good", "pipe", "large"] {
        copy(&workspace.path("adapter"), &root.join(name));
    }
    for file in ["adapter_config.json", "adapter_model.safetensors", "posterior.safetensors"] {
        let folder = root.join(format!("pipe-{file}"));
        copy(&root.join("pipe"), &folder);
        std::fs::remove_file(folder.join(file)).unwrap();
        assert!(Command::new("mkfifo").arg(folder.join(file)).status().unwrap().success());
    }
    let header = r#"{"x":{"dtype":"F32","shape":[268435456,1024],"data_offsets":[0,1099511627776]}}"#;
    let mut claims = (header.len() as u64).to_le_bytes().to_vec();
    claims.extend(header.as_bytes());
    let file = root.join("large/adapter_model.safetensors");
    std::fs::write(&file, &claims).unwrap();
    File::options().write(true).open(&file).unwrap().set_len(claims.len() as u64 + (1 << 40)).unwrap();

    let serving =
        Serving::ready(workspace.command(&format!("{SERVE} --keys keys.jsonl --adapter-root root"))).await;
    let started = Instant::now();
    for path in ["pipe-adapter_config.json", "pipe-adapter_model.safetensors", "pipe-posterior.safetensors"] {
        let answer = load(&serving, path).await;
        assert_eq!(answer.status(), 400, "{path}");
        assert_says(&answer.text().await.unwrap(), &["not a regular file"]);
    }
    let answer = load(&serving, "large").await;
    assert_eq!(answer.status(), 400);
    assert_says(&answer.text().await.unwrap(), &["adapter_model.safetensors: larger than the limit of"]);
    assert_eq!(load(&serving, "good").await.status(), 200);
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

#[tokio::test]
async fn without_keys_a_service_of_this_machine_has_its_own_names() {
    let workspace = Workspace::new("llama-0");
    let serving = Serving::ready(workspace.command(&format!("{SERVE} --allow-host rewarden.internal"))).await;
    for (host, status) in
        [("localhost", 200), ("127.0.0.1:80", 200), ("rewarden.internal", 200), ("evil.example", 403)]
    {
        let answer = serving.get("/v1/models").header("host", host).send().await.unwrap();
        assert_eq!(answer.status(), status, "{host}");
        if status == 403 {
            assert_eq!(answer.json::<Value>().await.unwrap()["error"]["code"], "foreign_host");
        }
        assert_eq!(serving.get("/livez").header("host", host).send().await.unwrap().status(), 200);
    }
}
