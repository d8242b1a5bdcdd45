//! `POST /v1/compare`: numbers against brute force, shapes, and what is refused.

use rewarden::{
    evaluate::verdicts::Verdict,
    item::{Input, Message},
    score::{Embed, Embedding, Want},
    text::{Limit, TokenSeq},
};
use serde_json::{Value, json};

use crate::helpers::{Fixture, Service, Setup};

const PROMPT: &str = "How do I boil an egg?";
const ANSWERS: [&str; 4] =
    ["In hot water.", "egg egg egg", "I do not know.", "In hot water, for eight minutes."];

/// What the library says of the answers, one by one.
fn brute_force(fixture: &Fixture) -> (Vec<TokenSeq>, Vec<Embedding>) {
    let limit = Limit { max_length: fixture.max_length, truncation: None };
    let encode = |answer: &str| {
        let messages = vec![Message::new("user", PROMPT), Message::new("assistant", answer)];
        fixture.encoder.encode(&Input::Messages(messages), &limit).unwrap()
    };
    let sequences: Vec<TokenSeq> = ANSWERS.map(encode).into();
    let embeddings = sequences.iter().map(|one| fixture.scorer.embed(&[one]).unwrap().remove(0)).collect();
    (sequences, embeddings)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

fn assert_close(got: f64, want: f64, what: &str) {
    assert!((got - want).abs() <= 1e-4 * want.abs().max(1.0), "{what}: {got}, not {want}");
}

#[tokio::test]
async fn every_two_are_as_by_brute_force() {
    let fixture = Fixture::new(|_| {});
    let (sequences, embeddings) = brute_force(&fixture);
    let service = Service::serve(vec![fixture.model("m")], &Default::default(), Default::default()).await;
    service.until_ready().await;
    let body = service.asked("/v1/compare", &json!({"prompt": PROMPT, "responses": ANSWERS})).await;
    let product = |a: &Embedding, b: &Embedding| -> f64 {
        a.vector.iter().zip(&b.vector).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    for (i, (a, sequence)) in embeddings.iter().zip(&sequences).enumerate() {
        let alone = fixture.scorer.estimates(&[sequence], Want::MeanAndVariance).unwrap()[0];
        let reward = &body["responses"][i];
        assert_close(number(&reward["mean"]), alone.mean, "mean");
        assert_close(number(&reward["variance"]), alone.variance.unwrap(), "variance");
        assert_close(number(&reward["contraction"]), alone.contraction.unwrap(), "contraction");
        assert_eq!((&reward["index"], &reward["tokens"]), (&json!(i), &json!(sequence.ids.len())));
        for (j, b) in embeddings.iter().enumerate() {
            let covariance = product(a, b);
            let (mu, v) = (a.mean - b.mean, product(a, a) + product(b, b) - 2.0 * covariance);
            let preferred = 1.0 / (1.0 + (-mu / (1.0 + std::f64::consts::PI * v / 8.0).sqrt()).exp());
            assert_close(number(&body["covariance"][i][j]), covariance, "covariance");
            assert_close(number(&body["mean_difference"][i][j]), mu, "difference");
            assert_close(number(&body["variance_difference"][i][j]), v, "variance of the difference");
            assert_close(number(&body["preference_probability"][i][j]), preferred, "probability");
            let contraction = &body["contraction_difference"][i][j];
            if i == j {
                assert!(contraction.is_null());
            } else {
                let prior: f64 = a.prior.iter().zip(&b.prior).map(|(a, b)| f64::from(a - b).powi(2)).sum();
                assert_close(number(contraction), 1.0 - v / prior, "contraction of the difference");
            }
        }
    }
    let pair =
        service.asked("/v1/compare", &json!({"prompt": PROMPT, "a": ANSWERS[0], "b": ANSWERS[1]})).await;
    for name in [
        "mean_difference",
        "variance_difference",
        "preference_probability",
        "covariance",
        "contraction_difference",
    ] {
        assert_close(number(&pair[name]), number(&body[name][0][1]), name);
    }
    assert_eq!(
        (&pair["a"]["tokens"], &pair["b"]["tokens"]),
        (&body["responses"][0]["tokens"], &body["responses"][1]["tokens"])
    );
}

#[tokio::test]
async fn a_pair_has_the_shape_of_its_question() {
    let service = Service::ready().await;
    // <s> x </s> y y </s> against <s> x </s> z </s>: three roots in common, sqrt 2 y against 1 z.
    let body = service.asked("/v1/compare", &json!({"prompt": "x", "a": "y y", "b": "z"})).await;
    let (a, b) = (&body["a"], &body["b"]);
    assert_close(number(&a["variance"]), 6.0, "variance");
    assert_eq!(a["mean"], json!(1.3));
    assert_eq!((&b["index"], &b["tokens"], &b["truncated"]), (&json!(1), &json!(5), &json!(false)));
    assert_close(number(&body["mean_difference"]), 0.3, "difference");
    assert_close(number(&body["covariance"]), 4.0, "covariance");
    assert_close(number(&body["variance_difference"]), 3.0, "variance of the difference");
    // Before the pairs were seen, the roots of what is left of the prior variance differ as well.
    let prior = 3.0 + (10f64.sqrt() - 11f64.sqrt()).powi(2);
    assert_close(number(&body["contraction_difference"]), 1.0 - 3.0 / prior, "contraction of the difference");
    assert_eq!((&body["model"], &body["usage"]), (&json!("bayes"), &json!({"tokens": 11})));
}

#[tokio::test]
async fn without_a_posterior_the_means_decide() {
    let service = Service::ready().await;
    let request = json!({"model": "plain", "prompt": "x", "a": "y y", "b": "z"});
    let body = service.asked("/v1/compare", &request).await;
    assert_eq!((&body["covariance"], &body["variance_difference"]), (&Value::Null, &Value::Null));
    assert_close(number(&body["preference_probability"]), 1.0 / (1.0 + (-0.3f64).exp()), "probability");
    assert_eq!(body["a"]["score"], body["a"]["mean"]);
}

#[tokio::test]
async fn several_prompts_and_messages_in_one_call() {
    let service = Service::ready().await;
    let user = |text: &str| json!({"role": "user", "content": text});
    let request = json!({"pools": [
        {"id": "p", "prompt": "x", "responses": ["y", "z"]},
        {"id": 2, "messages": [user("x")], "responses": [[{"role": "assistant", "content": "y"}], "y y", "w"]},
    ]});
    let body = service.asked("/v1/compare", &request).await;
    let data = body["data"].as_array().unwrap();
    assert_eq!((data[0]["id"].clone(), data[1]["id"].clone()), (json!("p"), json!(2)));
    assert_eq!((data[0]["index"].clone(), data[1]["index"].clone()), (json!(0), json!(1)));
    assert_eq!(data[1]["responses"].as_array().unwrap().len(), 3);
    // The same answer, said in another way.
    assert_eq!(data[0]["responses"][0]["mean"], data[1]["responses"][0]["mean"]);
    assert_eq!(data[0]["responses"][0]["variance"], data[1]["responses"][0]["variance"]);
    assert_eq!(data[1]["covariance"].as_array().unwrap().len(), 3);
    assert_eq!(body["usage"]["tokens"], 5 + 5 + 5 + 6 + 5);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let mut setup = Setup::default();
    setup.http.max_items = 4;
    let service = Service::ready_with(setup).await;
    let long = "x ".repeat(17);
    let table = [
        (json!({}), 422, "prompt"),
        (json!({"prompt": "x"}), 422, "responses"),
        (json!({"prompt": "x", "responses": ["y"]}), 422, "responses"),
        (json!({"prompt": "x", "a": "y"}), 422, "b"),
        (json!({"prompt": "x", "b": "y"}), 422, "a"),
        (json!({"prompt": "x", "a": "y", "b": "z", "responses": ["y", "z"]}), 422, "responses"),
        (json!({"prompt": "x", "a": "y", "b": long}), 422, "b"),
        (json!({"prompt": "x", "a": "y", "b": 1}), 422, "b"),
        (json!({"prompt": "x", "responses": ["y", long]}), 422, "responses[1]"),
        (json!({"prompt": [], "responses": ["y", "z"]}), 422, "prompt"),
        (json!({"prompt": "x", "messages": [], "responses": ["y", "z"]}), 422, "messages"),
        (json!({"prompt": "x", "responses": ["y", []]}), 422, "responses[1]"),
        (json!({"pools": []}), 422, "pools"),
        (json!({"pools": [{"prompt": "x", "responses": ["y"]}]}), 422, "pools[0].responses"),
        (json!({"pools": [{"prompt": "x", "responses": ["y", "no"]}], "prompt": "x"}), 422, "pools"),
        (json!({"pools": [{"prompt": "x", "response": ["y", "z"]}]}), 422, "pools[0].response"),
        (json!({"pools": [{"prompt": "x", "responses": ["y", "no"]}]}), 422, "pools[0].responses[1]"),
        (
            json!({"prompt": "x", "responses": ["y", "z"], "penalty": {"kind": "std", "relative": true}}),
            422,
            "penalty.relative",
        ),
        (json!({"prompt": "x", "responses": ["y", "z", "y", "z", "y"]}), 413, "responses"),
        (json!({"model": "no", "prompt": "x", "a": "y", "b": "z"}), 404, "model"),
    ];
    for (request, status, param) in table {
        let (got, body) = service.ask("/v1/compare", &request).await;
        assert_eq!((got, &body["error"]["param"]), (status, &json!(param)), "{request}: {body}");
    }
    assert!(service.batches.lock().unwrap().is_empty(), "nothing that is refused costs compute");
}

#[tokio::test]
async fn a_verdict_is_given_where_the_held_out_pairs_promise_it() {
    // Of two hundred pairs the surer half is always right, and the other half as often wrong.
    let verdict = |at: usize| match at % 2 {
        0 => Verdict::new(2.0 + at as f64 / 100.0, Some(0.5)),
        _ => Verdict::new(if at % 4 == 1 { 0.1 } else { -0.1 }, Some(0.5)),
    };
    let setup = Setup { verdicts: (0..200).map(verdict).collect(), ..Setup::default() };
    let service = Service::ready_with(setup).await;
    let decided = async |a: &str, rate: f64| {
        let request = json!({"prompt": "x", "a": a, "b": "x", "error_rate": rate});
        service.asked("/v1/compare", &request).await["decided"].clone()
    };
    // z z z z z z z is 3.2 above x, and w 0.1 below it.
    assert_eq!(decided("z z z z z z z z z z z", 0.1).await, json!(true));
    assert_eq!(decided("y", 0.1).await, json!(false));
    assert_eq!(decided("z z z z z z z z z z z", 0.001).await, json!(false), "too few pairs to promise this");
    let matrix = json!({"prompt": "x", "responses": ["y", "x", "z z z z z z z z z z z"], "error_rate": 0.1});
    let matrix = service.asked("/v1/compare", &matrix).await;
    assert_eq!((&matrix["decided"][0][0], &matrix["decided"][1][2]), (&json!(false), &json!(true)));
    let plain = service.asked("/v1/compare", &json!({"prompt": "x", "a": "y", "b": "x"})).await;
    assert_eq!(plain.get("decided"), None);
    for (rate, model) in [(0.5, "bayes"), (0.0, "bayes"), (0.1, "plain")] {
        let request = json!({"prompt": "x", "a": "y", "b": "x", "error_rate": rate, "model": model});
        let answer = service.post("/v1/compare").json(&request).send().await.unwrap();
        assert_eq!(answer.status(), 422, "{rate} {model}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["error"]["param"], "error_rate", "{body}");
    }
}
