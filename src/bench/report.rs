//! The report as tables to read, in Markdown.

use super::{
    Report,
    grid::{Cell, Side},
    pools::Pool,
    rank::Ranked,
    timer::median,
};
use std::fmt::Write;

impl Report {
    /// Everything, for people.
    pub fn render(&self) -> String {
        let parts = [
            self.head(),
            self.grid("Means", |cell| Some(&cell.mean)),
            self.grid("Means and variances", |cell| cell.variance.as_ref()),
            self.budget(),
            self.families(),
            self.by_pool(),
            self.by_rank(),
        ];
        let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join("\n")
    }

    fn head(&self) -> String {
        let (model, machine) = (&self.model, &self.machine);
        let mut text = format!(
            "Model: {} layers of {} ({} wide), {} + 2 x {} heads of {}, vocabulary {}; {}\n",
            model.layers,
            model.hidden_size,
            model.intermediate_size,
            model.heads,
            model.kv_heads,
            model.head_dim,
            model.vocab_size,
            if self.int8 { "forward in int8, limits of f32" } else { "f32" },
        );
        text += &format!(
            "Machine: {}, {} threads, {:.0} GFLOP/s in products at best, {:.1} GB/s read from memory\n",
            machine.architecture,
            machine.threads,
            machine.operations_per_second / 1e9,
            machine.bytes_per_second / 1e9,
        );
        text += &format!(
            "Memory: weights {}, of which a pass reads {}; the process at most {}\n",
            megabytes(Some(self.weights.kept_bytes)),
            megabytes(Some(self.weights.pass_bytes)),
            megabytes(self.peak_bytes),
        );
        if self.stand_in_posterior {
            text += "Variances: of a stand-in posterior, which costs what a fitted one does\n";
        }
        text
    }

    fn grid(&self, title: &str, side: impl Fn(&Cell) -> Option<&Side>) -> String {
        let rows = self.cells.iter().filter_map(|cell| {
            let side = side(cell)?;
            Some([
                cell.batch_tokens.to_string(),
                cell.length.to_string(),
                cell.sequences.to_string(),
                format!("{:.0}", side.tokens_per_second),
                milliseconds(side.seconds),
                milliseconds(side.products_seconds),
                format!("{:.2}", side.share),
                format!("{:.0}", side.gflops),
                format!("{:.0}", side.products_gflops),
                milliseconds(side.operations_floor_seconds),
                milliseconds(side.bytes_floor_seconds),
                megabytes(side.peak_bytes),
            ])
        });
        let head = [
            "batch",
            "length",
            "items",
            "tokens/s",
            "ms",
            "products, ms",
            "share",
            "GFLOP/s",
            "of products",
            "floor by operations, ms",
            "floor by bytes, ms",
            "peak",
        ];
        table(title, head, rows)
    }

    fn budget(&self) -> String {
        let named = [("means", self.budgets.mean), ("means and variances", self.budgets.variance)];
        let named = named.into_iter().filter_map(|(name, tokens)| Some(format!("{name} {}", tokens?)));
        let each: Vec<String> = named.collect();
        match self.budgets.recommended() {
            Some(tokens) => {
                let each = each.join(", ");
                format!("Recommended: --batch-tokens {tokens} (97 % of the best rate: {each})\n")
            }
            None => String::new(),
        }
    }

    fn families(&self) -> String {
        let rows = self.candidates.iter().map(|family| {
            [
                family.candidates.to_string(),
                family.tokens.to_string(),
                family.folded_tokens.to_string(),
                milliseconds(family.separate_seconds),
                milliseconds(family.folded_seconds),
                format!("{:.2}", family.separate_seconds / family.folded_seconds),
                family.variances_seconds.map_or_else(dash, milliseconds),
                family.selected_seconds.map_or_else(dash, milliseconds),
            ]
        });
        let head = [
            "n",
            "tokens",
            "prompt once",
            "means, ms",
            "prompt once, ms",
            "times faster",
            "all variances, ms",
            "best of n, ms",
        ];
        let (prompt, answer) = (self.plan.prompt_tokens, self.plan.answer_tokens);
        table(&format!("Candidates: prompt of {prompt} tokens, answers of {answer}"), head, rows)
    }

    /// Medians over the pools.
    fn by_pool(&self) -> String {
        if self.pools.is_empty() {
            return String::new();
        }
        let median = |of: &dyn Fn(&Pool) -> f64| median(&mut self.pools.iter().map(of).collect::<Vec<_>>());
        let row = |name: &str, of: &dyn Fn(&Pool) -> f64, format: &dyn Fn(f64) -> String| {
            [name.to_owned(), format(median(of))]
        };
        let (plain, tokens) = (|x: f64| format!("{x:.2}"), |x: f64| format!("{x:.0}"));
        let rows = [
            row("candidates", &|p| p.candidates as f64, &tokens),
            row("tokens", &|p| p.tokens as f64, &tokens),
            row("of the prompt", &|p| p.prompt_tokens as f64, &tokens),
            row(
                "means, prompt once: times faster than each in full",
                &|p| p.separate_seconds / p.means_seconds,
                &plain,
            ),
            row(
                "best of n: times faster than all variances, each in full",
                &|p| p.separate_variances_seconds / p.selected_seconds,
                &plain,
            ),
            row(
                "best of n: times faster than all variances, prompt once",
                &|p| p.variances_seconds / p.selected_seconds,
                &plain,
            ),
            row("variances computed in full", &|p| p.complete as f64, &tokens),
            row("share of the layers walked", &|p| p.walked, &plain),
        ];
        table(&format!("Pools: medians of {}", self.pools.len()), ["", "median"], rows)
    }

    fn by_rank(&self) -> String {
        let rows = self.ranks.iter().map(|ranked| {
            let Ranked { rank, parameters, .. } = ranked;
            let (mean, variance) = (ranked.mean_tokens_per_second, ranked.variance_tokens_per_second);
            [rank.to_string(), parameters.to_string(), format!("{mean:.0}"), format!("{variance:.0}")]
        });
        let head = ["rank", "parameters", "means, tokens/s", "means and variances, tokens/s"];
        table("Rank of the update: fresh adapters and stand-in posteriors, 256 tokens a sequence", head, rows)
    }
}

/// Nothing without rows.
fn table<const K: usize>(
    title: &str,
    head: [&str; K],
    rows: impl IntoIterator<Item = [String; K]>,
) -> String {
    let rows: Vec<[String; K]> = rows.into_iter().collect();
    if rows.is_empty() {
        return String::new();
    }
    let widest = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; K] = std::array::from_fn(|column| widest(column).max(head[column].len()).max(2));
    let mut text = format!("{title}\n\n");
    let mut line = |cells: [&str; K]| {
        for (cell, width) in cells.into_iter().zip(widths) {
            // Writing to a string does not fail.
            let _ = write!(text, "| {cell:>width$} ");
        }
        text += "|\n";
    };
    line(head);
    let rules = widths.map(|width| format!("{}:", "-".repeat(width - 1)));
    line(rules.each_ref().map(String::as_str));
    rows.iter().for_each(|row| line(row.each_ref().map(String::as_str)));
    text
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.1}", 1e3 * seconds)
}

fn megabytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(dash, |bytes| format!("{:.0} MB", bytes as f64 / 1e6))
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_absent_without_rows() {
        let rows = [["1".to_owned(), "1000".to_owned()]];
        let want = "t\n\n| ab |    c |\n| -: | ---: |\n|  1 | 1000 |\n";
        assert_eq!(table("t", ["ab", "c"], rows), want);
        assert_eq!(table("t", ["a"], []), "");
    }
}
