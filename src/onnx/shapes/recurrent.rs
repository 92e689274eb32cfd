//! LSTM, GRU and RNN: all outputs, the last state, and for an LSTM the last cell.

use super::{Args, Dim, Fact};

impl Args<'_> {
    /// X is (sequence, batch, input), or (batch, sequence, input) with `layout` 1; R is (directions, gates, hidden).
    pub(super) fn recurrent(&self) -> Vec<Fact> {
        let (Some([a, b, _]), Some([directions, _, hidden])) = (self.shape(0), self.shape(2)) else {
            return vec![Fact::new(self.element(0), None); 3];
        };
        let hidden =
            self.node.int("hidden_size").and_then(|size| usize::try_from(size).ok()).map_or(hidden.clone(), Dim::Size);
        let of = |dims: Vec<&Dim>| Fact::new(self.element(0), Some(dims.into_iter().cloned().collect()));
        let (all, last) = if self.int("layout", 0) == 1 {
            (of(vec![a, b, directions, &hidden]), of(vec![a, directions, &hidden]))
        } else {
            (of(vec![a, directions, b, &hidden]), of(vec![directions, b, &hidden]))
        };
        vec![all, last.clone(), last]
    }
}
