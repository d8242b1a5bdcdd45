//! The Open Inference Protocol.

use serde_json::{Value, json};

use crate::helpers::{PRIOR, Service};

const INFER: &str = "/v2/models/bayes/infer";

fn tensor(name: &str, shape: Value, datatype: &str, data: Value) -> Value {
    json!({"name": name, "shape": shape, "datatype": datatype, "data": data})
}

fn texts(name: &str, data: &[&str]) -> Value {
    tensor(name, json!([data.len()]), "BYTES", json!(data))
}

#[tokio::test]
async fn columns_go_in_and_come_out() {
    let service = Service::ready().await;
    let request = json!({"id": "i", "parameters": {}, "inputs": [texts("prompt", &["x", "x"]), texts("response", &["y", "z"])]});
    let column =
        |name: &str, data: [f64; 2]| json!({"name": name, "shape": [2], "datatype": "FP64", "data": data});
    let std = 5f64.sqrt();
    let want = json!({
        "model_name": "bayes", "model_version": "1", "id": "i",
        "outputs": [
            column("score", [0.9 - std, 1.0 - std]), column("mean", [0.9, 1.0]), column("variance", [5.0, 5.0]),
            column("std", [std, std]), column("contraction", [1.0 - 5.0 / PRIOR; 2]),
            {"name": "truncated", "shape": [2], "datatype": "BOOL", "data": [false, false]},
        ],
    });
    assert_eq!(service.asked(INFER, &request).await, want);
    assert_eq!(service.asked("/v2/models/bayes/versions/1/infer", &request).await, want);
}

#[tokio::test]
async fn inputs_are_nested_or_flat_and_outputs_are_chosen() {
    let service = Service::ready().await;
    let mean = async |path: &str, inputs: Value| {
        let request = json!({"inputs": inputs, "outputs": [{"name": "mean"}]});
        let body = service.asked(path, &request).await;
        assert_eq!((body["outputs"].as_array().unwrap().len(), body.get("id")), (1, None), "{body}");
        body["outputs"][0]["data"].clone()
    };
    let nested = tensor("text", json!([2, 1]), "BYTES", json!([["x"], ["y"]]));
    assert_eq!(mean(INFER, json!([nested])).await, json!([0.3, 0.4]));
    assert_eq!(mean(INFER, json!([texts("sentences", &["x", "y"])])).await, json!([0.3, 0.4]));
    let tokens = tensor("tokens", json!([2, 2]), "INT64", json!([3, 4, 5, 0]));
    assert_eq!(mean(INFER, json!([tokens])).await, json!([0.7, 0.5]));
    let lengths = tensor("sequence_lengths", json!([2]), "INT64", json!([1, 1]));
    assert_eq!(mean(INFER, json!([tokens, lengths])).await, json!([0.3, 0.5]));
    assert_eq!(mean("/v2/models/plain/infer", json!([texts("text", &["x"])])).await, json!([0.3]));
    let rewards =
        json!({"inputs": [texts("sentences", &["x"])], "outputs": [{"name": "rewards"}, {"name": "std"}]});
    let body = service.asked(INFER, &rewards).await;
    assert_eq!((&body["outputs"][0]["data"], &body["outputs"][1]["name"]), (&json!([0.3]), &json!("std")));
}

#[tokio::test]
async fn the_server_and_its_models_are_described() {
    let service = Service::ready().await;
    let get = async |path: &str| service.get(path).await.json::<Value>().await.unwrap();
    assert_eq!(get("/v2").await["name"], "rewarden");
    for path in ["/v2/health/live", "/v2/health/ready"] {
        assert_eq!(get(path).await, json!({"live": true, "ready": true}));
    }
    for path in ["/v2/models/plain", "/v2/models/plain/versions/1"] {
        let model = get(path).await;
        assert_eq!((&model["name"], &model["versions"]), (&json!("plain"), &json!(["1"])));
        assert_eq!(model["inputs"][1], json!({"name": "response", "datatype": "BYTES", "shape": [-1]}));
    }
    for path in ["/v2/models/plain/ready", "/v2/models/plain/versions/1/ready"] {
        assert_eq!(get(path).await, json!({"name": "plain", "ready": true}));
    }
    let model = get("/v1/models/plain").await;
    assert_eq!((&model["name"], &model["ready"]), (&json!("plain"), &json!(true)));
    let listed = get("/v1/models").await;
    let entry = listed["data"].as_array().unwrap().iter().find(|entry| entry["id"] == "plain").unwrap();
    assert!(
        entry.as_object().unwrap().iter().all(|(field, value)| model[field] == *value),
        "{model} {entry}"
    );
    let body = service.asked("/v1/models/plain:predict", &json!({"instances": ["x", "y"]})).await;
    assert_eq!(body, json!({"predictions": [0.3, 0.4]}));
}

#[tokio::test]
async fn what_is_wrong_is_one_text() {
    let service = Service::ready().await;
    let infer = |inputs: Value| (INFER, json!({"inputs": inputs}));
    let wanted = json!({"inputs": [texts("text", &["x"])], "outputs": [{"name": "median"}]});
    let table = [
        (infer(json!([])), 422, "inputs"),
        (infer(json!([texts("prompt", &["x"])])), 422, "inputs"),
        (infer(json!([texts("prompt", &["x"]), texts("response", &["y", "z"])])), 422, "inputs"),
        (infer(json!([tensor("text", json!([3]), "BYTES", json!(["x", "y"]))])), 422, "inputs[0].data"),
        (
            infer(json!([tensor("text", json!([usize::MAX, 2]), "BYTES", json!(["x", "y"]))])),
            422,
            "inputs[0].data",
        ),
        (infer(json!([tensor("text", json!([1]), "FP32", json!(["x"]))])), 422, "inputs[0].datatype"),
        (infer(json!([tensor("text", json!([1]), "BYTES", json!([1]))])), 422, "inputs[0].data"),
        (infer(json!([tensor("tokens", json!([1, 1]), "INT64", json!([-1]))])), 422, "inputs[0].data"),
        (infer(json!([texts("text", &["x", " "])])), 422, "inputs.data[1]"),
        ((INFER, wanted), 422, "outputs[0].name"),
        (("/v2/models/no/infer", json!({"inputs": []})), 404, "unknown model: no"),
        (
            ("/v2/models/bayes/versions/2/infer", json!({"inputs": [texts("text", &["x"])]})),
            404,
            "unknown model",
        ),
        (("/v1/models/bayes:explain", json!({"instances": ["x"]})), 404, "no such route"),
        (("/v1/models/bayes:predict", json!({"instances": []})), 422, "instances"),
    ];
    for ((path, request), status, named) in table {
        let (got, body) = service.ask(path, &request).await;
        assert_eq!(got, status, "{path} {request}: {body}");
        assert!(body["error"].as_str().unwrap().starts_with(named), "{path} {request}: {body}");
    }
    assert_eq!(service.get("/v2/models/no").await.status(), 404);
    assert_eq!(service.get("/v1/models/no").await.status(), 404);
    assert_eq!(service.get("/v2/models/no/ready").await.status(), 404);
}
