//! `selvedge inspect`: what a model is made of, and how it runs here.

mod show;

use super::model_file::ModelArgs;
use super::{advise, print};
use crate::engine::Report;
use serde_json::json;
pub(super) use show::count;
use std::process::ExitCode;

/// Show what a model is made of: operators, what runs in int8, what does not and why, sizes, kernels.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge inspect models/digits
  selvedge inspect detector.onnx --shape images=1x3x640x640 --all
  selvedge inspect model.onnx --json | jq '.float[].reason'

Exit status: 0 shown, 1 the model cannot be loaded.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Every node that stays float, and every step of the int8 regions.
    #[arg(long)]
    all: bool,
    /// What each int8 region computes, line by line.
    #[arg(long)]
    program: bool,
    /// JSON instead of tables.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let source = args.model.open(None)?;
    let loaded = Report::load(&source.onnx, &source.inputs, &source.outputs);
    let (model, report) = loaded.map_err(|error| {
        let hint = "`python -m onnx.checker` tells whether the file is sound; operators that lack are named above";
        advise(error, format!("load the model {}", source.path), hint)
    })?;
    let listings = if args.program { model.listings() } else { Vec::new() };
    if !args.json {
        print(&show::text(&source, &report, &listings, args.all))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut value = serde_json::to_value(&report)?;
    value["model"] = json!(source.path);
    value["release"] = json!(source.release);
    value["notes"] = json!(source.notes);
    value["macs"] = json!(report.macs());
    value["float-macs"] = json!(report.float_macs());
    if args.program {
        value["programs"] = json!(listings);
    }
    print(&format!("{value:#}\n"))?;
    Ok(ExitCode::SUCCESS)
}
