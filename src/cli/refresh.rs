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

/// Warns of a date that this machine's clock once set too far ahead: devices go by it.
fn date_warning(issued: u64, now: u64) -> Option<String> {
    let days = issued.saturating_sub(now) / 86_400;
    let text = format!(
        "the last signature is dated {days} days ahead of this machine's clock; if the clock was wrong then, \
         `selvedge trust rotate timestamp` sets devices right\n"
    );
    (days > 0).then_some(text)
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut repository = args.with.dir.open()?;
    let fresh = repository.refresh()?;
    let publication = if args.all { repository.everything()? } else { fresh };
    let now = unix_now();
    let warnings =
        [root_warning(&repository, now), team_warning(&repository, now), date_warning(repository.issued(), now)];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_date_that_is_days_ahead_is_warned_of() {
        assert_eq!(date_warning(1_000_000, 1_000_000), None);
        assert_eq!(date_warning(0, 1_000_000), None);
        assert_eq!(date_warning(1_086_399, 1_000_000), None);
        assert!(date_warning(1_000_000 + 5 * 86_400, 1_000_000).unwrap().contains("5 days ahead"));
    }
}
