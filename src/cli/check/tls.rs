//! The files of TLS: there, readable, belonging together, in date.

use super::findings::{Finding, secret};
use crate::config::{DeviceId, Tls};
use crate::mqtt::{Certificate, Dates, TlsFiles, tls_files};
use crate::sys::{RealClock, RealDisk, date};
use std::sync::Arc;

/// Time to bring a board a new certificate.
const SOON: u64 = 30 * 86_400;

pub(super) fn all(tls: &Tls, id: Option<DeviceId>) -> Vec<Finding> {
    let dates = Dates::of_device(Arc::new(RealClock::new()));
    let mut all = match tls_files(&RealDisk, tls) {
        Ok(files) => found(tls, &files, id, &dates),
        Err(e) => vec![Finding::error("TLS", format!("{e:#}"), "no session comes about until it is mended")],
    };
    if let Some(identity) = &tls.identity {
        all.push(secret("certificate's key", &identity.key_file, "put the key there that came with the certificate"));
    }
    all
}

fn found(tls: &Tls, files: &TlsFiles, id: Option<DeviceId>, dates: &Dates) -> Vec<Finding> {
    let mut all = vec![authorities(tls, files, dates)];
    all.push(match &files.own {
        Some(own) => certificate(own, id, dates),
        None if tls.identity.is_some() => {
            Finding::warning("certificate", "its dates cannot be read", "let `selvedge provision` make one")
        }
        None => Finding::ok("certificate", "none: the broker must not ask for one"),
    });
    all
}

fn authorities(tls: &Tls, files: &TlsFiles, dates: &Dates) -> Finding {
    let what = "TLS authorities";
    let Some(path) = &tls.ca_file else {
        return Finding::ok(what, format!("{} of the system's", files.authorities));
    };
    let ends = files.authorities_end.unwrap_or(u64::MAX);
    let last = Certificate { name: None, begins: 0, ends };
    let until = files.authorities_end.map_or_else(String::new, |ends| format!(", until {}", date(ends)));
    let found = format!("{} in {}{until}", files.authorities, path.display());
    match last.ends_within(SOON, dates) || last.has_ended(dates) {
        true => Finding::warning(what, found, "a broker's certificate of this authority will soon be refused"),
        false => Finding::ok(what, found),
    }
}

fn certificate(own: &Certificate, id: Option<DeviceId>, dates: &Dates) -> Finding {
    let what = "certificate";
    let name = own.name.as_deref().unwrap_or("nobody");
    let found = format!("for {name}, until {}", date(own.ends));
    if own.has_ended(dates) {
        return Finding::error(what, format!("{found}: it has ended"), "`selvedge provision --id` makes a new one");
    }
    if id.is_some_and(|id| name != id.to_string()) {
        let remedy =
            "with the shipped broker files a device writes the branch of its certificate's name alone: use its own";
        return Finding::warning(what, format!("{found}; that is not this device's id"), remedy);
    }
    match own.ends_within(SOON, dates) {
        true => Finding::warning(what, found, "`selvedge provision --id` makes a new one"),
        false => Finding::ok(what, found),
    }
}
