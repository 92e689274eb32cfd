//! `selvedge publish --repair`: a board that lost something gets it back.

use super::publish::{With, shown};
use super::{bytes, print};
use crate::publish::{Repair, RepairError, lacking};
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

pub async fn run(with: &With) -> anyhow::Result<()> {
    let mut repository = with.dir.open()?;
    let broker = with.broker.address()?.context("--repair looks at a board: give its --broker")?;
    let everything = repository.everything()?;
    let bar = ProgressBar::new(everything.posts.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} topics looked at, {elapsed}") {
        bar.set_style(style);
    }
    let looked = lacking(&broker, everything, &mut |done, _| bar.set_position(done as u64)).await;
    bar.finish_and_clear();
    let repair = looked.map_err(|error| {
        let hint = match &error {
            RepairError::Board(_) | RepairError::Ended | RepairError::Away(_) => "nothing was changed; run it again",
            RepairError::Ahead { .. } => "nothing was changed; give that copy by --dir",
        };
        super::advise(error, "look at what the board lacks", hint)
    })?;
    if !repair.publication.posts.is_empty() {
        with.broker.send(&mut repository, &repair.publication).await?;
    }
    print(&if with.json { json(&repair) } else { text(&repair, &shown(&with.dir.dir)) })
}

fn text(repair: &Repair, dir: &str) -> String {
    let Repair { publication, missing, wrong, looked } = repair;
    if publication.posts.is_empty() {
        return format!("the board shows all {looked} messages of {dir} as they were signed: nothing to repair\n");
    }
    let size = bytes(publication.size());
    let found = format!("of {looked} messages {missing} were missing, {wrong} were not as signed");
    format!("{found}\nput back: {} messages, {size}\n", publication.posts.len())
}

fn json(repair: &Repair) -> String {
    let topics: Vec<&str> = repair.publication.posts.iter().map(|post| post.topic.as_str()).collect();
    let value = serde_json::json!({
        "looked-at": repair.looked,
        "missing": repair.missing,
        "wrong": repair.wrong,
        "put-back": topics,
        "message-bytes": repair.publication.size(),
    });
    format!("{value:#}\n")
}
