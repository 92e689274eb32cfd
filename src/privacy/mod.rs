//! What may leave the device, as a closed set of types, and the ledger of what did.
//!
//! Invariant: the engine can tell the outside only a `Tell`; it is made of numbers, enums and the
//! names of models that the operator published, and the name that the board's maker gave all boards of its kind.
//! There is no field that could carry an input, a result, a path or an error text. `docs/privacy.md` lists the set for people.
//! Not here: sending; the link does that and writes each packet into the ledger.

mod ledger;
mod tell;

pub use ledger::{Entry, Kind, Ledger, LedgerError, totals};
pub use tell::{
    Arch, AuditHead, BoardName, Code, Histogram, InstructionSet, Inventory, Lacks, Measure, Metrics, ModelMetrics,
    ModelState, ModelStatus, Outcome, Stage, Status, Tell, Verdict, WaitsFor,
};
