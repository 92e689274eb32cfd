//! All devices, by what each told the broker last.

use super::super::broker::BrokerArgs;
use super::device::{self, name, runtime, span, temperature};
use super::{AGAIN, Align, Table, print, refresh};
use crate::bundle::topics;
use crate::config::{Broker, DeviceId};
use crate::privacy::{ModelState, ModelStatus, Status};
use crate::publish::{Fleet, Listener, Row};
use crate::sys::unix_now;
use anyhow::anyhow;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    broker: BrokerArgs,
    /// How long to listen before showing; retained states come at once.
    #[arg(long, value_name = "N", default_value_t = 3, requires = "broker", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Everything that this one device told, by its 32-digit id.
    #[arg(long, value_name = "ID", requires = "broker", conflicts_with = "group_by")]
    device: Option<DeviceId>,
    /// Count devices instead of listing them.
    #[arg(long, value_name = "WHAT", requires = "broker")]
    group_by: Option<GroupBy>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum GroupBy {
    /// By the versions that answer.
    Version,
    /// By the code of the last outcome.
    Outcome,
    /// By Selvedge's own version.
    Runtime,
}

impl Args {
    pub fn broker(&self) -> anyhow::Result<Option<Broker>> {
        self.broker.address()
    }
}

pub(super) async fn run(args: &Args, broker: &Broker, json: bool, watch: bool) -> anyhow::Result<()> {
    let filters = match args.device {
        Some(id) => [topics::device_online(id), topics::device_status(id)],
        None => Fleet::filters(),
    };
    let opened = Listener::open(broker, &filters).await;
    let mut listener = opened.map_err(|error| {
        super::advise(
            error,
            "show the fleet",
            "is the broker up and its address right? `selvedge status` without --broker asks this machine's engine",
        )
    })?;
    let is_whole = |fleet: &Fleet| {
        let row = args.device.and_then(|id| fleet.rows().get(&id.0));
        !watch && row.is_some_and(|row| row.online.is_some() && row.status.is_some())
    };
    listener.listen(Duration::from_secs(args.seconds), is_whole).await;
    let look = |fleet: &Fleet| if json { self::json(args, fleet) } else { text(args, fleet, unix_now()) };
    print(&look(listener.fleet())?)?;
    if !watch {
        listener.close().await;
        return Ok(());
    }
    loop {
        listener.listen(AGAIN, |_| false).await;
        refresh(&look(listener.fleet()).unwrap_or_else(|error| super::super::told(&error)))?;
    }
}

fn text(args: &Args, fleet: &Fleet, now: u64) -> anyhow::Result<String> {
    if let Some(id) = args.device {
        return one(id, fleet, now);
    }
    let table = match args.group_by {
        Some(by) => groups(by, fleet),
        None => rows(fleet, now),
    };
    let online = fleet.rows().values().filter(|row| row.online == Some(true)).count();
    let mut summary = format!("{} devices, {online} online", fleet.rows().len());
    if fleet.rows().is_empty() {
        summary = "no device has told anything: is this the broker of their `link` section, and may this user read selvedge/v1/dev/+/status there?".into();
    }
    if fleet.ignored() > 0 {
        summary += &format!("; {} messages were not of the known form and passed over", fleet.ignored());
    }
    let table = if fleet.rows().is_empty() { String::new() } else { format!("{table}\n") };
    Ok(format!("{table}{summary}\n"))
}

fn one(id: DeviceId, fleet: &Fleet, now: u64) -> anyhow::Result<String> {
    let row = found(id, fleet)?;
    let mut out = format!("device {id}, {}", online_text(row.online));
    match &row.status {
        None => out += "; it has told no state yet\n",
        Some(status) => {
            out += &format!(", told {} ago by its own time\n\n{}", age(status, now), device::text(status));
        }
    }
    Ok(out)
}

fn found(id: DeviceId, fleet: &Fleet) -> anyhow::Result<&Row> {
    fleet.rows().get(&id.0).ok_or_else(|| {
        let hint = "`selvedge check` on the device shows its id; is its link running, with this broker? --seconds listens longer";
        super::advise(anyhow!("nothing stands on the board of device {id}"), "show the device", hint)
    })
}

fn rows(fleet: &Fleet, now: u64) -> Table {
    let (left, right) = (Align::Left, Align::Right);
    let mut table = Table::new([
        ("device", left),
        ("online", left),
        ("models", left),
        ("state", left),
        ("last outcome", left),
        ("memory MiB", right),
        ("temperature", right),
        ("runtime", left),
        ("status age", right),
    ]);
    for (id, row) in fleet.rows() {
        let mut cells = vec![DeviceId(*id).to_string(), online_text(row.online).to_owned()];
        if let Some(status) = &row.status {
            let inventory = &status.inventory;
            cells.extend([
                models(status),
                state(status),
                last_outcome(status),
                format!("{}/{}", inventory.memory_used_mib, inventory.memory_total_mib),
                temperature(inventory),
                runtime(inventory),
                age(status, now),
            ]);
        }
        table.row(cells);
    }
    table
}

fn online_text(online: Option<bool>) -> &'static str {
    match online {
        Some(true) => "online",
        Some(false) => "offline",
        None => "unknown",
    }
}

/// As many as a line bears, then how many more.
pub(in crate::cli) fn few(mut words: Vec<String>) -> String {
    const FEW: usize = 3;
    let more = words.len().saturating_sub(FEW);
    words.truncate(FEW);
    if more > 0 {
        words.push(format!("{more} more"));
    }
    if words.is_empty() { "-".into() } else { words.join(", ") }
}

fn models(status: &Status) -> String {
    let model = |model: &ModelStatus| format!("{}:{}", model.model, device::number(model.live));
    few(status.models.iter().map(model).collect())
}

/// Of the models that are not idle.
fn state(status: &Status) -> String {
    let busy = |model: &&ModelStatus| model.state != ModelState::Idle;
    let text =
        |model: &ModelStatus| format!("{} {}:{}", name(&model.state), model.model, device::number(model.candidate));
    match few(status.models.iter().filter(busy).map(text).collect()) {
        none if none == "-" => name(&ModelState::Idle),
        some => some,
    }
}

fn last_outcome(status: &Status) -> String {
    let Some(outcome) = status.outcomes.last() else { return "-".into() };
    let model = outcome.model.as_ref().map(|model| format!(" {model}:{}", device::number(outcome.version)));
    outcome.code.name() + &model.unwrap_or_default()
}

fn age(status: &Status, now: u64) -> String {
    span(now.saturating_sub(status.time))
}

/// What a device counts as.
fn group(by: GroupBy, row: &Row) -> String {
    let Some(status) = &row.status else { return "no state".into() };
    match by {
        GroupBy::Version => models(status),
        GroupBy::Outcome => status.outcomes.last().map_or("none".into(), |outcome| outcome.code.name()),
        GroupBy::Runtime => runtime(&status.inventory),
    }
}

/// Devices, and how many of them are online and busy.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Count {
    devices: u64,
    online: u64,
    updating: u64,
}

/// The largest group first.
fn counted(by: GroupBy, fleet: &Fleet) -> Vec<(String, Count)> {
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    for row in fleet.rows().values() {
        let count = counts.entry(group(by, row)).or_default();
        let busy = row.status.iter().flat_map(|status| &status.models).any(|model| model.state != ModelState::Idle);
        count.devices += 1;
        count.online += u64::from(row.online == Some(true));
        count.updating += u64::from(busy);
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(count.devices));
    counts
}

fn groups(by: GroupBy, fleet: &Fleet) -> Table {
    let heading = match by {
        GroupBy::Version => "models",
        GroupBy::Outcome => "last outcome",
        GroupBy::Runtime => "runtime",
    };
    let right = Align::Right;
    let mut table = Table::new([
        (heading, Align::Left),
        ("devices", right),
        ("share", right),
        ("online", right),
        ("updating", right),
    ]);
    let all = fleet.rows().len().max(1) as f64;
    for (group, count) in counted(by, fleet) {
        let share = format!("{:.1} %", count.devices as f64 / all * 100.0);
        table.row([group, count.devices.to_string(), share, count.online.to_string(), count.updating.to_string()]);
    }
    table
}

fn json(args: &Args, fleet: &Fleet) -> anyhow::Result<String> {
    let object = |id: DeviceId, row: &Row| serde_json::json!({ "device": id.to_string(), "online": row.online, "status": row.status });
    if let Some(id) = args.device {
        return Ok(format!("{:#}\n", object(id, found(id, fleet)?)));
    }
    let Some(by) = args.group_by else {
        return Ok(fleet.rows().iter().map(|(id, row)| object(DeviceId(*id), row).to_string() + "\n").collect());
    };
    let line = |(group, count): (String, Count)| {
        let Count { devices, online, updating } = count;
        let value = serde_json::json!({ "group": group, "devices": devices, "online": online, "updating": updating });
        value.to_string() + "\n"
    };
    Ok(counted(by, fleet).into_iter().map(line).collect())
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
