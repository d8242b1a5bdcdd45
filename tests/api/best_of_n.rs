//! `POST /v1/best-of-n`: choices and probabilities against brute force, shapes, and what is refused.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rewarden::{
    item::{Input, Message},
    score::{Embed, Embedding, Want, rescale::Scale},
    text::{Limit, TokenSeq},
};
use serde_json::{Value, json};

use crate::helpers::{Fixture, Service, Setup};

const PROMPT: &str = "What is it?";
const WORDS: [&str; 8] = ["an", "egg", "or", "a", "house", "by", "the", "sea"];
const COUNT: usize = 12;

/// Answers of different lengths, the last two equal.
fn answers() -> Vec<String> {
    let answer = |i: usize| (0..=i % 7).map(|j| WORDS[(i * 3 + j * j) % 8]).collect::<Vec<_>>().join(" ");
    (0..COUNT - 1).chain([COUNT - 2]).map(answer).collect()
}

fn sequences(fixture: &Fixture) -> Vec<TokenSeq> {
    let limit = Limit { max_length: fixture.max_length, truncation: None };
    let encode = |answer: String| {
        let messages = vec![Message::new("user", PROMPT), Message::new("assistant", answer)];
        fixture.encoder.encode(&Input::Messages(messages), &limit).unwrap()
    };
    answers().into_iter().map(encode).collect()
}

fn embeddings(fixture: &Fixture) -> Vec<Embedding> {
    let sequences = sequences(fixture);
    fixture.scorer.embed(&sequences.iter().collect::<Vec<_>>()).unwrap()
}

async fn served(fixture: &Fixture) -> Service {
    let models = vec![fixture.model("m"), fixture.model("half").rescaled(Scale::new(0.5, 3.0).unwrap())];
    let service = Service::serve(models, &Default::default(), Default::default()).await;
    service.until_ready().await;
    service
}

fn request(more: Value) -> Value {
    let mut request = json!({"prompt": PROMPT, "responses": answers()});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request
}

/// Indices by falling score, of equals the lowest first.
fn order(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order
}

fn ranking<'a>(body: &'a Value, field: &str) -> Vec<&'a Value> {
    body["ranking"]
        .as_array()
        .unwrap_or_else(|| panic!("{body}"))
        .iter()
        .map(|ranked| &ranked[field])
        .collect()
}

fn indices(body: &Value) -> Vec<usize> {
    ranking(body, "index").iter().map(|index| index.as_u64().unwrap() as usize).collect()
}

fn close(got: f64, want: f64) -> bool {
    (got - want).abs() <= 1e-4 * want.abs().max(1.0)
}

#[tokio::test]
async fn the_choice_is_that_of_all_variances_and_takes_fewer() {
    let fixture = Fixture::new(|_| {});
    let (sequences, service) = (sequences(&fixture), served(&fixture).await);
    let all: Vec<&TokenSeq> = sequences.iter().collect();
    let estimates = fixture.scorer.estimates(&all, Want::MeanAndVariance).unwrap();
    let mut pruned = 0;
    for (kind, k) in
        [("std", 0.1), ("std", 1.0), ("std", 4.0), ("variance", 0.01), ("variance", 0.5), ("none", 1.0)]
    {
        let score = |i: usize| match kind {
            "std" => estimates[i].mean - k * estimates[i].variance.unwrap().sqrt(),
            "variance" => estimates[i].mean - k * estimates[i].variance.unwrap(),
            _ => estimates[i].mean,
        };
        let want = order(&(0..COUNT).map(score).collect::<Vec<_>>());
        let penalty = json!({"kind": kind, "k": k});
        let body = service.asked("/v1/best-of-n", &request(json!({"penalty": penalty}))).await;
        assert_eq!(body["best"], want[0], "{kind} {k}: {body}");
        let computed = body["variances_computed"].as_u64().unwrap() as usize;
        pruned += usize::from(computed < COUNT - 1 && computed > 0);
        assert_eq!(indices(&body).len(), COUNT);
        assert_eq!(indices(&body)[0], want[0]);
        for ranked in body["ranking"].as_array().unwrap() {
            let at = ranked["index"].as_u64().unwrap() as usize;
            assert!(close(ranked["mean"].as_f64().unwrap(), estimates[at].mean));
            if let Some(variance) = ranked["variance"].as_f64() {
                assert!(close(variance, estimates[at].variance.unwrap()), "{ranked}");
                assert_eq!(ranked["std"], json!(variance.sqrt()));
            }
            assert_eq!(ranked["score"].is_null(), ranked["variance"].is_null() && kind != "none", "{ranked}");
            assert!(
                ranked["score"].is_null() || close(ranked["score"].as_f64().unwrap(), score(at)),
                "{ranked}"
            );
            assert!(ranked["probability_best"].is_null());
        }
        for top in [1, 3, COUNT] {
            let body =
                service.asked("/v1/best-of-n", &request(json!({"penalty": penalty, "top": top}))).await;
            assert_eq!(indices(&body), want[..top], "{kind} {k} {top}: {body}");
            assert!(ranking(&body, "score").iter().all(|score| score.is_number()));
        }
    }
    assert!(pruned > 0, "some variances were left out");
}

/// Draws from N(mean, Y Y^T) by way of the vectors themselves, with another generator than the service's.
fn simulated(embeddings: &[Embedding], draws: usize) -> (Vec<f64>, Vec<f64>) {
    let mut rng = ChaCha8Rng::seed_from_u64(20_260_101);
    let features = embeddings[0].vector.len();
    let (mut best, mut regret) = (vec![0.0; embeddings.len()], vec![0.0; embeddings.len()]);
    for _ in 0..draws {
        // Box and Muller.
        let mut normal = || {
            let (u, angle) = (1.0 - rng.random::<f64>(), rng.random_range(0.0..std::f64::consts::TAU));
            (-2.0 * u.ln()).sqrt() * angle.cos()
        };
        let z: Vec<f64> = (0..features).map(|_| normal()).collect();
        let reward =
            |e: &Embedding| e.mean + e.vector.iter().zip(&z).map(|(y, z)| f64::from(*y) * z).sum::<f64>();
        let rewards: Vec<f64> = embeddings.iter().map(reward).collect();
        let first = order(&rewards)[0];
        best[first] += 1.0 / draws as f64;
        regret
            .iter_mut()
            .zip(&rewards)
            .for_each(|(sum, reward)| *sum += (rewards[first] - reward) / draws as f64);
    }
    (best, regret)
}

#[tokio::test]
async fn a_report_of_all_has_what_a_simulation_finds() {
    let fixture = Fixture::new(|_| {});
    let service = served(&fixture).await;
    let embeddings = embeddings(&fixture);
    let body = service.asked("/v1/best-of-n", &request(json!({"report": "all"}))).await;
    assert_eq!(body["variances_computed"], COUNT);
    // The last candidate equals the one before it: of equal rewards the first is the best.
    let (best, regret) = simulated(&embeddings, 2000);
    for ranked in body["ranking"].as_array().unwrap() {
        let at = ranked["index"].as_u64().unwrap() as usize;
        let number = |name: &str| ranked[name].as_f64().unwrap_or_else(|| panic!("{name}: {ranked}"));
        let scale = embeddings.iter().map(|e| e.covariance(e).sqrt()).fold(0.0, f64::max);
        assert!((number("probability_best") - best[at]).abs() < 0.05, "{ranked}: {}", best[at]);
        assert!((number("expected_regret") - regret[at]).abs() < 0.1 * scale, "{ranked}: {}", regret[at]);
        assert!(close(number("score"), number("mean") - number("std")));
    }
    let total: f64 = ranking(&body, "probability_best").iter().map(|p| p.as_f64().unwrap()).sum();
    assert!((total - 1.0).abs() < 1e-9, "{total}");
    for (i, a) in embeddings.iter().enumerate() {
        for (j, b) in embeddings.iter().enumerate() {
            assert!(close(body["covariance"][i][j].as_f64().unwrap(), a.covariance(b)));
        }
    }
    let scores: Vec<f64> = ranking(&body, "score").iter().map(|score| score.as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    assert_eq!(body["best"], body["ranking"][0]["index"]);
}

#[tokio::test]
async fn a_relative_penalty_leaves_out_what_all_share() {
    let fixture = Fixture::new(|_| {});
    let (embeddings, service) = (embeddings(&fixture), served(&fixture).await);
    let features = embeddings[0].vector.len();
    let centre = |k: usize| embeddings.iter().map(|e| f64::from(e.vector[k])).sum::<f64>() / COUNT as f64;
    let centre: Vec<f64> = (0..features).map(centre).collect();
    let relative =
        |e: &Embedding| e.vector.iter().zip(&centre).map(|(y, c)| (f64::from(*y) - c).powi(2)).sum::<f64>();
    let prior_centre =
        |k: usize| embeddings.iter().map(|e| f64::from(e.prior[k])).sum::<f64>() / COUNT as f64;
    let prior_centre: Vec<f64> = (0..embeddings[0].prior.len()).map(prior_centre).collect();
    let uncontracted = |e: &Embedding| {
        let both = e.prior.iter().zip(&prior_centre);
        relative(e) / both.map(|(p, c)| (f64::from(*p) - c).powi(2)).sum::<f64>()
    };
    let penalties = [
        json!({"kind": "std", "k": 1.0, "relative": true}),
        json!({"kind": "variance", "k": 0.5, "relative": true}),
        json!({"kind": "kl", "beta": 0.5, "relative": true}),
        json!({"kind": "shrink", "baseline": -2.0, "relative": true}),
    ];
    for penalty in penalties {
        let score = |e: &Embedding| match penalty["kind"].as_str().unwrap() {
            "std" => e.mean - relative(e).sqrt(),
            "variance" => e.mean - 0.5 * relative(e),
            "kl" => e.mean - relative(e),
            _ => -2.0 + (1.0 - uncontracted(e)) * (e.mean + 2.0),
        };
        let scores: Vec<f64> = embeddings.iter().map(score).collect();
        let body = service.asked("/v1/best-of-n", &request(json!({"penalty": penalty}))).await;
        assert_eq!(body["best"], order(&scores)[0], "{body}");
        for ranked in body["ranking"].as_array().unwrap() {
            let at = ranked["index"].as_u64().unwrap() as usize;
            assert!(close(ranked["score"].as_f64().unwrap(), scores[at]), "{ranked}: {}", scores[at]);
        }
        assert_eq!(body["variances_computed"], COUNT);
    }
}

#[tokio::test]
async fn a_seed_draws_the_same_again() {
    let fixture = Fixture::new(|_| {});
    let service = served(&fixture).await;
    let all = service.asked("/v1/best-of-n", &request(json!({"report": "all"}))).await;
    let mut counts = [0.0; COUNT];
    for seed in 0..200 {
        let drawn =
            service.asked("/v1/best-of-n", &request(json!({"thompson": {"seed": seed}, "top": 1}))).await;
        assert_eq!((&drawn["thompson"]["seed"], &drawn["best"]), (&json!(seed), &all["best"]));
        counts[drawn["thompson"]["index"].as_u64().unwrap() as usize] += 1.0 / 200.0;
        if seed < 5 {
            let again = service.asked("/v1/best-of-n", &request(json!({"thompson": {"seed": seed}}))).await;
            assert_eq!(again["thompson"], drawn["thompson"]);
        }
    }
    for ranked in all["ranking"].as_array().unwrap() {
        let (at, want) =
            (ranked["index"].as_u64().unwrap() as usize, ranked["probability_best"].as_f64().unwrap());
        assert!((counts[at] - want).abs() < 0.12, "{at}: {} {want}", counts[at]);
    }
    let unseeded = service.asked("/v1/best-of-n", &request(json!({"thompson": {}}))).await;
    let seed = unseeded["thompson"]["seed"].clone();
    let again = service.asked("/v1/best-of-n", &request(json!({"thompson": {"seed": seed}}))).await;
    assert_eq!(again["thompson"], unseeded["thompson"]);
}

#[tokio::test]
async fn another_scale_changes_numbers_but_no_choice_by_standard_deviations() {
    let fixture = Fixture::new(|_| {});
    let service = served(&fixture).await;
    for more in [json!({"top": 3}), json!({"top": 3, "report": "all"})] {
        let plain = service.asked("/v1/best-of-n", &request(more.clone())).await;
        let mut half = request(more);
        half["model"] = json!("half");
        let half = service.asked("/v1/best-of-n", &half).await;
        assert_eq!(indices(&half), indices(&plain));
        for (half, plain) in
            half["ranking"].as_array().unwrap().iter().zip(plain["ranking"].as_array().unwrap())
        {
            let of = |ranked: &Value, name: &str| ranked[name].as_f64().unwrap();
            assert!(close(of(half, "mean"), 0.5 * of(plain, "mean") + 3.0));
            assert!(close(of(half, "variance"), 0.25 * of(plain, "variance")));
            assert!(close(of(half, "score"), 0.5 * of(plain, "score") + 3.0));
            assert_eq!(half["probability_best"].is_null(), plain["probability_best"].is_null());
        }
    }
}

#[tokio::test]
async fn several_prompts_are_one_call() {
    let fixture = Fixture::new(|_| {});
    let service = served(&fixture).await;
    let other = json!({"id": "b", "messages": [{"role": "user", "content": "And?"}], "responses": ["yes", "no it is not"]});
    for more in [json!({}), json!({"report": "all"}), json!({"thompson": {"seed": 3}})] {
        let one = service.asked("/v1/best-of-n", &request(more.clone())).await;
        let mut both = json!({"pools": [{"id": 7, "prompt": PROMPT, "responses": answers()}, other]});
        both.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let body = service.asked("/v1/best-of-n", &both).await;
        let data = body["data"].as_array().unwrap();
        assert_eq!((&data[0]["id"], &data[1]["id"], &data[1]["index"]), (&json!(7), &json!("b"), &json!(1)));
        assert_eq!((&data[0]["best"], indices(&data[0])), (&one["best"], indices(&one)), "{more}");
        assert_eq!(data[0]["thompson"], one["thompson"]);
        assert_eq!(data[1]["ranking"].as_array().unwrap().len(), 2);
        assert!(body["usage"]["tokens"].as_u64() > one["usage"]["tokens"].as_u64());
    }
}

#[tokio::test]
async fn without_a_posterior_the_highest_mean_is_chosen() {
    let service = Service::ready().await;
    let ask = |more: Value| {
        let mut request = json!({"model": "plain", "prompt": "x", "responses": ["y", "z z", "y", "z z"]});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request
    };
    for more in
        [json!({}), json!({"report": "all"}), json!({"penalty": {"kind": "std", "k": 0, "relative": true}})]
    {
        let body = service.asked("/v1/best-of-n", &ask(more)).await;
        assert_eq!((&body["best"], &body["variances_computed"]), (&json!(1), &json!(0)), "{body}");
        assert_eq!(indices(&body), [1, 3, 0, 2]);
        assert!(ranking(&body, "probability_best").iter().all(|p| p.is_null()));
        assert_eq!(ranking(&body, "score"), ranking(&body, "mean"));
    }
    for (more, param) in
        [(json!({"thompson": {"seed": 1}}), "thompson"), (json!({"penalty": {"kind": "std"}}), "penalty")]
    {
        let (status, body) = service.ask("/v1/best-of-n", &ask(more)).await;
        assert_eq!((status, &body["error"]["param"]), (422, &json!(param)), "{body}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let mut setup = Setup::default();
    setup.http.max_items = 3;
    let service = Service::ready_with(setup).await;
    let with = |name: &str, value: Value| json!({"prompt": "x", "responses": ["y", "z"], name: value});
    let table = [
        (json!({"prompt": "x", "responses": []}), 422, "responses"),
        (json!({"responses": ["y"]}), 422, "prompt"),
        (with("top", json!(0)), 422, "top"),
        (with("report", json!("most")), 422, "report"),
        (with("thompson", json!({"sed": 1})), 422, "thompson.sed"),
        (with("thompson", json!({"seed": -1})), 422, "thompson.seed"),
        (with("penalty", json!({"kind": "variance", "k": 1e308})), 422, "penalty.k"),
        (with("responses", json!(["y", "x ".repeat(17)])), 422, "responses[1]"),
        (with("responses", json!(["y", "y", "y", "y"])), 413, "responses"),
        (with("model", json!("no")), 404, "model"),
        (with("pools", json!([{"prompt": "x", "responses": ["y"]}])), 422, "pools"),
    ];
    for (request, status, param) in table {
        let (got, body) = service.ask("/v1/best-of-n", &request).await;
        assert_eq!((got, &body["error"]["param"]), (status, &json!(param)), "{request}: {body}");
    }
    for word in ["nan", "fail", "panic"] {
        let (status, body) = service.ask("/v1/best-of-n", &with("responses", json!(["y", word]))).await;
        assert_eq!((status, &body["error"]["type"]), (500, &json!("server_error")), "{word}: {body}");
    }
    assert_eq!(service.metric("rewarden_queue_items").await, 0.0);
}
