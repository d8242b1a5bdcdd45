//! What `evaluate best-of-n` draws.

use super::plots::PlotArgs;
use crate::{
    Result,
    evaluate::over_optimisation::{Curve, Family, Judged, Report},
    plot::{Line, Lines, Scale},
};

const KL: &str = "KL divergence from the policy, nats";

/// Families that are drawn, those with a band first.
const DRAWN: [Family; 7] = [
    Family::Mean,
    Family::RelativeStd,
    Family::Std,
    Family::HeadStd,
    Family::EnsembleMean,
    Family::Uwo,
    Family::RelativeTotalStd,
];
const WITH_BAND: usize = 2;

/// Which of a family's curves is drawn.
type Of = fn(&Judged) -> &Curve;

/// Draws gold and proxy rewards against KL, and gold rewards at the largest n against the strength of the penalty.
pub fn draw(report: &Report, plots: &PlotArgs) -> Result<()> {
    let table: [(&str, &str, Of); 3] = [
        ("gold", "Gold reward above a random answer", |judged| &judged.gold),
        ("proxy", "Proxy reward above a random answer", |judged| &judged.proxy),
        ("above-mean", "Gold reward above that of the mean's choice", |judged| &judged.above_mean),
    ];
    for (stem, y, of) in table {
        let chart = Lines {
            title: "Best of n, strengths chosen on other prompts".into(),
            x: KL.into(),
            y: y.into(),
            scale: Scale::Linear,
            series: series(report, of),
        };
        plots.save(stem, &chart)?;
    }
    plots.save("strength", &by_strength(report))
}

fn series(report: &Report, of: Of) -> Vec<Line> {
    let judged = DRAWN.into_iter().filter_map(|family| report.judged.iter().find(|j| j.family == family));
    let line = |(at, judged): (usize, &Judged)| {
        let (name, curve) = (judged.family.name(), of(judged));
        let line = Line::new(name, report.kl.iter().copied().zip(curve.value.iter().copied()).collect());
        match at < WITH_BAND {
            true => line.with_band(curve.interval.iter().map(|[low, high]| (*low, *high)).collect()),
            false => line,
        }
    };
    judged.enumerate().map(line).collect()
}

fn by_strength(report: &Report) -> Lines {
    let last = report.n.len().saturating_sub(1);
    let strong = Family::ALL.into_iter().filter(|family| family.has_strength());
    let series = strong.filter_map(|family| {
        let runs = report.runs.iter().filter(|run| run.family == family && run.k > 0.0);
        let points: Vec<(f64, f64)> = runs.map(|run| (run.k, run.gold.value[last])).collect();
        (!points.is_empty()).then(|| Line::new(family.name(), points))
    });
    Lines {
        title: format!("Best of {}", report.n.last().copied().unwrap_or_default()),
        x: "Strength k of the penalty".into(),
        y: "Gold reward above a random answer".into(),
        scale: Scale::Log,
        series: series.collect(),
    }
}
