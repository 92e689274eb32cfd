//! `selvedge gc`: the board forgets what nothing names.

use super::print;
use super::publish::With;

/// Clear chunks that no offer needs and metadata that newer has replaced, on the board and in the directory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge gc                                  show what would be cleared
  selvedge gc --broker mqtt://broker.local     clear it")]
pub struct Args {
    #[command(flatten)]
    with: With,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut repository = args.with.dir.open()?;
    let garbage = repository.garbage()?;
    let topics: Vec<&str> = garbage.posts.iter().map(|post| post.topic.as_str()).collect();
    let cleared = args.with.broker.clear(topics.iter().copied()).await?;
    // The board first: what is gone from the directory could not be named again.
    if cleared {
        repository.sweep(&garbage)?;
    }
    if args.with.json {
        return print(&format!("{:#}\n", serde_json::json!({ "topics": topics, "cleared": cleared })));
    }
    let done = if cleared { "cleared" } else { "to clear; give --broker to do it" };
    print(&format!("{} topics {done}\n", topics.len()))
}
