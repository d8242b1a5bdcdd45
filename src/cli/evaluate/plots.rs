//! Where plots go: `--plots`.

use crate::{Error, Result, plot::Chart};
use std::path::PathBuf;

#[derive(Debug, Clone, clap::Args)]
pub struct PlotArgs {
    /// Folder for plots, each as SVG and PNG; made if it is not there [default: none are drawn]
    #[arg(long, value_name = "DIR", env = "REWARDEN_PLOTS")]
    plots: Option<PathBuf>,
}

impl PlotArgs {
    /// Makes the folder: one that cannot be written to is found before the work begins.
    pub fn prepare(&self) -> Result<()> {
        self.plots
            .as_ref()
            .map_or(Ok(()), |folder| std::fs::create_dir_all(folder).map_err(Error::io(folder)))
    }

    /// Draws a chart, where plots are wanted.
    pub fn save(&self, name: &str, chart: &impl Chart) -> Result<()> {
        self.plots.as_ref().map_or(Ok(()), |folder| chart.save(&folder.join(name)))
    }
}
