//! `selvedge refresh`: offers stay in date.

use super::publish::{NOT_SENT, With, root_warning};
use super::{bytes, print};
use crate::publish::{Repository, TeamState};
use crate::sys::unix_now;

/// Sign the timestamp anew, so that boards go on taking offers; send what the board lacks.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge refresh --broker mqtt://broker.local          from a timer, daily
  selvedge refresh --all --broker mqtt://broker.local    put everything back on a broker that lost it

A timestamp lasts 30 days unless `trust init` was told otherwise. Boards whose timestamp has expired serve on;
they only take nothing new until the next refresh.")]
pub struct Args {
    /// Send everything that the board must show, not only what is new.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    with: With,
}

/// Warns of what a refresh cannot renew: teams sign their files themselves.
fn team_warning(repository: &Repository, now: u64) -> Option<String> {
    const SOON: u64 = 30 * 86_400;
    let ends = |team: &TeamState| team.is_signed && team.expires < now.saturating_add(SOON);
    let teams: Vec<String> = repository.teams().into_iter().filter(ends).map(|team| team.name).collect();
    let text =
        format!("these teams' files expire within 30 days, and only they can renew them: {}\n", teams.join(", "));
    (!teams.is_empty()).then_some(text)
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut repository = args.with.dir.open()?;
    let fresh = repository.refresh()?;
    let publication = if args.all { repository.everything()? } else { fresh };
    let warnings = [root_warning(&repository, unix_now()), team_warning(&repository, unix_now())];
    let sent = args.with.broker.send(&mut repository, &publication).await?;
    let (messages, size) = (publication.posts.len(), publication.size());
    if args.with.json {
        let value = serde_json::json!({
            "messages": messages,
            "message-bytes": size,
            "sent": sent,
            "root-expires": repository.root_expires(),
        });
        return print(&format!("{value:#}\n"));
    }
    print(&format!("refreshed: {} in {messages} messages\n", bytes(size)))?;
    print(&warnings.into_iter().flatten().collect::<String>())?;
    print(if sent { "sent\n" } else { NOT_SENT })
}
