//! What Prometheus is told: typed fields in a registry of their own, nothing global.
//!
//! Every name starts with `rewarden_`, except for those of the process. Labels come from closed sets (the
//! matched route, a status code, a stage, a served model), never from what a client sends.

use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder, core::Collector,
};

use super::drift::{LEAST, WINDOW};

/// Seconds: from a cheap answer to a long wait in the queue.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];
const TOKENS: [f64; 11] = [16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];
const REWARDS: [f64; 17] =
    [-32.0, -16.0, -8.0, -4.0, -2.0, -1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
const DEVIATIONS: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
const SHARES: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0];
const PERCENTILES: [f64; 10] = [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0];

const NOVELTY: &str = "Percentiles of 1 - contraction among the answers of the pairs that the fit held out; what is \
    above their last quantile has its probability.";
const CONTRACTION: &str = "Shares of the prior variance that the preference pairs removed.";

type Built<T> = Result<T, prometheus::Error>;

/// Every metric of the service.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests answered, by `route` and `code` (499: the client went away first).
    pub requests: IntCounterVec,
    /// Seconds from request to response, by `route`.
    pub request_seconds: HistogramVec,
    /// Seconds in each `stage`: `tokenize` and `queue` of a request or item, `score` of a batch.
    pub stage_seconds: HistogramVec,
    /// Items admitted that the worker has not taken yet.
    pub queue_items: IntGauge,
    /// Tokens admitted that the worker has not taken yet.
    pub queue_tokens: IntGauge,
    /// Items dropped before they cost compute, by `reason`: `gone` or `late`.
    pub dropped_items: IntCounterVec,
    /// Estimates that were known already, where there is a cache.
    pub cache_hits: IntCounter,
    /// Estimates that had to be computed, where there is a cache.
    pub cache_misses: IntCounter,
    /// Estimates that somebody else was waiting for already.
    pub cache_joins: IntCounter,
    /// Bytes of the results that are kept.
    pub cache_bytes: IntGauge,
    /// Tokens in each batch.
    pub batch_tokens: Histogram,
    /// Items scored.
    pub scored_items: IntCounter,
    /// Tokens scored.
    pub scored_tokens: IntCounter,
    /// Posterior means of the rewards returned, by `model`.
    pub reward_mean: HistogramVec,
    /// Standard deviations of the rewards returned, by `model`.
    pub reward_std: HistogramVec,
    /// Contractions of the rewards returned, by `model`.
    pub contraction: HistogramVec,
    /// Conservative scores returned, by `model`.
    pub reward_score: HistogramVec,
    /// Percentiles of 1 - contraction of the rewards returned, by `model`.
    pub novelty: HistogramVec,
    /// How far the latest contractions have moved, by `model`.
    pub drift: GaugeVec,
}

impl Metrics {
    /// Makes a registry with every metric at zero.
    pub fn new() -> Built<Self> {
        let registry = Registry::new();
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let made = |name: &str, help: &str| Opts::new(format!("rewarden_{name}"), help);
        let buckets = |name: &str, help: &str, buckets: &[f64]| {
            HistogramOpts::from(made(name, help)).buckets(buckets.to_vec())
        };
        let per_model = |name: &str, help: &str, bounds: &[f64]| {
            added(&registry, HistogramVec::new(buckets(name, help, bounds), &["model"]))
        };
        let seconds = |name: &str, help: &str, label: &str| {
            added(&registry, HistogramVec::new(buckets(name, help, &SECONDS), &[label]))
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            added(&registry, IntCounterVec::new(made(name, help), labels))
        };
        let counter = |name: &str, help: &str| added(&registry, IntCounter::with_opts(made(name, help)));
        let gauge = |name: &str, help: &str| added(&registry, IntGauge::with_opts(made(name, help)));
        let drift = format!(
            "Population stability index of 1 - contraction of the last {WINDOW} rewards against that of the pairs that the fit held out, from \
             {LEAST} rewards on: below 0.1 little has changed, above 0.25 much."
        );
        Ok(Self {
            requests: counters("requests_total", "Requests answered.", &["route", "code"])?,
            request_seconds: seconds("request_seconds", "Seconds from request to response.", "route")?,
            stage_seconds: seconds("stage_seconds", "Seconds in each stage of scoring.", "stage")?,
            queue_items: gauge("queue_items", "Items admitted and not yet taken by the worker.")?,
            queue_tokens: gauge("queue_tokens", "Tokens admitted and not yet taken by the worker.")?,
            dropped_items: counters("dropped_items_total", "Items dropped before compute.", &["reason"])?,
            cache_hits: counter("cache_hits_total", "Estimates that were known already.")?,
            cache_misses: counter("cache_misses_total", "Estimates that the cache did not have.")?,
            cache_joins: counter(
                "cache_joins_total",
                "Estimates that were being computed for another item.",
            )?,
            cache_bytes: gauge("cache_bytes", "Bytes of the results that are kept.")?,
            batch_tokens: added(
                &registry,
                Histogram::with_opts(buckets("batch_tokens", "Tokens in each batch.", &TOKENS)),
            )?,
            scored_items: counter("scored_items_total", "Items scored.")?,
            scored_tokens: counter("scored_tokens_total", "Tokens scored.")?,
            reward_mean: per_model("reward_mean", "Posterior means of rewards.", &REWARDS)?,
            reward_std: per_model("reward_std", "Standard deviations of rewards.", &DEVIATIONS)?,
            reward_score: per_model("reward_score", "Conservative scores.", &REWARDS)?,
            contraction: per_model("contraction", CONTRACTION, &SHARES)?,
            novelty: per_model("novelty", NOVELTY, &PERCENTILES)?,
            drift: added(&registry, GaugeVec::new(made("drift", &drift), &["model"]))?,
            registry,
        })
    }

    /// Drops the series of a model that is served no more.
    pub fn forget(&self, model: &str) {
        let histograms =
            [&self.reward_mean, &self.reward_std, &self.contraction, &self.reward_score, &self.novelty];
        // What was never observed has no series.
        for histogram in histograms {
            drop(histogram.remove_label_values(&[model]));
        }
        drop(self.drift.remove_label_values(&[model]));
    }

    /// Writes every metric in Prometheus' text format.
    pub fn render(&self) -> Built<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn added<C: Collector + Clone + 'static>(registry: &Registry, metric: Built<C>) -> Built<C> {
    let metric = metric?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_registries_live_side_by_side() {
        let (one, other) = (Metrics::new().unwrap(), Metrics::new().unwrap());
        one.scored_tokens.inc_by(7);
        assert!(one.render().unwrap().contains("\nrewarden_scored_tokens_total 7\n"));
        assert!(other.render().unwrap().contains("\nrewarden_scored_tokens_total 0\n"));
    }

    #[test]
    fn the_series_of_a_model_go_with_it() {
        let metrics = Metrics::new().unwrap();
        for model in ["a", "b"] {
            metrics.reward_mean.with_label_values(&[model]).observe(1.0);
            metrics.drift.with_label_values(&[model]).set(1.0);
        }
        metrics.forget("a");
        metrics.forget("never there");
        let text = metrics.render().unwrap();
        assert!(!text.contains(r#"model="a""#) && text.contains(r#"rewarden_drift{model="b"} 1"#), "{text}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_is_reported() {
        let text = Metrics::new().unwrap().render().unwrap();
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }
}
