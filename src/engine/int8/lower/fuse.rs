//! Steps that a product takes in: a table behind it works on bytes that are still in registers.
//!
//! Invariant: the program computes the same bytes; the product rounds to 8 bits before the table, as it did.

use super::super::op::{Finish, Op, Table};
use super::super::program::{Draft, ValueId};
use std::collections::HashMap;
use std::sync::Arc;

pub(super) fn fuse(mut draft: Draft) -> Draft {
    let mut reads: HashMap<ValueId, usize> = HashMap::new();
    let read = draft.steps.iter().flat_map(|step| &step.inputs).chain(&draft.outputs);
    read.for_each(|&id| *reads.entry(id).or_default() += 1);
    let mut makers: HashMap<ValueId, usize> = HashMap::new();
    let mut taken = vec![false; draft.steps.len()];
    for (at, taken) in taken.iter_mut().enumerate() {
        let step = &draft.steps[at];
        let (output, source) = (step.output, step.inputs.first().copied());
        if let (Op::Table(table), Some(source)) = (&step.op, source)
            && reads.get(&source) == Some(&1)
            && let Some(&maker) = makers.get(&source)
        {
            let table = Arc::clone(table);
            if take_in(&mut draft.steps[maker].op, table) {
                draft.steps[maker].output = output;
                makers.insert(output, maker);
                *taken = true;
                continue;
            }
        }
        makers.insert(output, at);
    }
    let mut kept = taken.iter().map(|taken| !taken);
    draft.steps.retain(|_| kept.next().unwrap_or(true));
    draft
}

/// Whether the operator now ends with the table.
fn take_in(op: &mut Op, then: Arc<Table>) -> bool {
    let finish = if let Op::Conv(conv) = op {
        &mut conv.finish
    } else if let Op::Linear(linear) = op {
        &mut linear.finish
    } else {
        return false;
    };
    let Finish::Requantize { table: table @ None, .. } = finish else { return false };
    *table = Some(then);
    true
}
