//! An axis: the range it shows, where its ticks are, and what is written at them.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// Parts into which ticks divide a linear axis, about.
const PARTS: f64 = 6.0;
/// Most ticks of an axis.
const MOST: usize = 12;

/// How values become places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    /// Equal differences have equal lengths.
    #[default]
    Linear,
    /// Equal ratios have equal lengths; values are positive.
    Log,
}

impl Scale {
    /// The value's place, up to an affine map.
    pub(super) fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.log10(),
        }
    }

    /// The value at a place.
    pub(super) fn value(self, place: f64) -> f64 {
        match self {
            Self::Linear => place,
            Self::Log => 10f64.powf(place),
        }
    }
}

/// A scale and the part of it that is shown.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    scale: Scale,
    /// Places of the two ends.
    places: Range<f64>,
}

impl Axis {
    /// An axis that shows `values`, with a little room at both ends.
    pub(super) fn around(scale: Scale, values: impl IntoIterator<Item = f64>) -> Self {
        let Range { start, end } = span(values.into_iter().map(|value| scale.place(value)));
        let room = match end - start {
            0.0 => 0.5,
            length => 0.03 * length,
        };
        Self { scale, places: start - room..end + room }
    }

    /// A linear axis from 0 to a little above the largest of `values`, none of which is negative.
    pub(super) fn from_zero(values: impl IntoIterator<Item = f64>) -> Self {
        Self::between(0.0, 1.05 * span(values.into_iter().chain([0.0])).end.max(f64::MIN_POSITIVE))
    }

    /// The linear axis that shows just this.
    pub(super) fn between(low: f64, high: f64) -> Self {
        Self { scale: Scale::Linear, places: low..high }
    }

    /// The values at the ticks, ascending.
    pub(super) fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => linear_ticks(&self.places),
            Scale::Log => log_ticks(&self.places),
        }
    }

    /// What is written at a tick.
    pub(super) fn label(&self, tick: f64) -> String {
        let magnitude = match self.scale {
            Scale::Linear => self.places.start.abs().max(self.places.end.abs()),
            Scale::Log => tick,
        };
        // Without what multiplication left behind the last digits that matter.
        let rounded: f64 = format!("{tick:.11e}").parse().unwrap_or(tick);
        if rounded == 0.0 || (1e-3..1e6).contains(&magnitude) {
            rounded.to_string()
        } else {
            format!("{rounded:e}")
        }
    }
}

/// The smallest and the largest of at least one number.
pub(super) fn span(values: impl IntoIterator<Item = f64>) -> Range<f64> {
    let (low, high) = values
        .into_iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    low..high
}

/// Multiples of 1, 2 or 5 times a power of ten.
fn linear_ticks(places: &Range<f64>) -> Vec<f64> {
    let rough = (places.end - places.start) / PARTS;
    let power = 10f64.powf(rough.log10().floor());
    let mantissa = match rough / power {
        ..1.5 => 1.0,
        ..3.5 => 2.0,
        ..7.5 => 5.0,
        _ => 10.0,
    };
    let step = mantissa * power;
    let first = (places.start / step).ceil();
    let all = (0..MOST).map(|at| (first + at as f64) * step);
    all.take_while(|&tick| tick <= places.end).collect()
}

/// Powers of ten, not all where there are many; with their twofold and fivefold, or linear, where there are few.
fn log_ticks(places: &Range<f64>) -> Vec<f64> {
    let powers = places.start.floor() as i32..=places.end.ceil() as i32;
    let multiples = |mantissas: &[f64]| -> Vec<f64> {
        let all = powers.clone().flat_map(|power| mantissas.iter().map(move |m| m * 10f64.powi(power)));
        all.filter(|tick| (places.start..=places.end).contains(&tick.log10())).collect()
    };
    let decades = multiples(&[1.0]);
    if decades.len() >= 3 {
        return decades.iter().copied().step_by(decades.len().div_ceil(MOST)).collect();
    }
    let finer = multiples(&[1.0, 2.0, 5.0]);
    if finer.len() >= 3 {
        return finer;
    }
    linear_ticks(&(Scale::Log.value(places.start)..Scale::Log.value(places.end)))
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let Range { start, end } = self.places;
        let share = (self.scale.place(*value) - start) / (end - start);
        first + (share * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks()
    }

    fn range(&self) -> Range<f64> {
        self.scale.value(self.places.start)..self.scale.value(self.places.end)
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, tick: &f64) -> String {
        self.label(*tick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> String {
        let labels: Vec<String> = axis.ticks().into_iter().map(|tick| axis.label(tick)).collect();
        labels.join(" ")
    }

    #[test]
    fn ticks_are_round_numbers() {
        let table = [
            (Scale::Linear, [0.0, 1.0], "0 0.2 0.4 0.6 0.8 1"),
            (Scale::Linear, [-3.0, 9.0], "-2 0 2 4 6 8"),
            (Scale::Linear, [0.0, 3e-4], "0 5e-5 1e-4 1.5e-4 2e-4 2.5e-4 3e-4"),
            (Scale::Linear, [0.0, 2e6], "0 5e5 1e6 1.5e6 2e6"),
            (Scale::Linear, [7.0, 7.0], "6.6 6.8 7 7.2 7.4"),
            (Scale::Log, [1e-4, 20.0], "1e-4 0.001 0.01 0.1 1 10"),
            (Scale::Log, [0.9, 11.0], "1 2 5 10"),
            (Scale::Log, [1.0, 1.5], "1 1.1 1.2 1.3 1.4 1.5"),
        ];
        for (scale, values, want) in table {
            assert_eq!(labels(&Axis::around(scale, values)), want, "{values:?}");
        }
        assert_eq!(labels(&Axis::from_zero([0.4])), "0 0.05 0.1 0.15 0.2 0.25 0.3 0.35 0.4");
    }

    /// The ends of what numbers there are: no panic, no endless list.
    #[test]
    fn extreme_ranges_have_few_ticks() {
        for values in [[0.0, f64::MIN_POSITIVE], [1e16, 1e16 + 2.0], [f64::MIN, f64::MAX], [5e-324, 1e-323]] {
            assert!(Axis::around(Scale::Linear, values).ticks().len() <= MOST, "{values:?}");
        }
        assert!(Axis::around(Scale::Log, [1e-300, 1e300]).ticks().len() <= MOST);
        assert!(Axis::from_zero([]).ticks().len() <= MOST);
    }

    #[test]
    fn places_follow_the_scale() {
        let axis = Axis { scale: Scale::Log, places: 0.0..2.0 };
        let pixels = [1.0, 10.0, 100.0].map(|value| axis.map(&value, (0, 200)));
        assert_eq!(pixels, [0, 100, 200]);
        assert_eq!(Axis::between(0.0, 4.0).map(&1.0, (200, 0)), 150);
    }
}
