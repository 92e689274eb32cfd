//! Integers that shapes are computed with, followed by content where they may hold symbols.
//!
//! Not here: whole tensors that are known; `normalise` folds those.

use super::layout::slice_bounds;
use super::{Args, Dim, Fact, Item, MAX_CONTENT, sizes};
use crate::onnx::tensor::{ElementType, count};

impl Args<'_> {
    /// Contents of the first output, of which type and shape are known by now.
    pub(super) fn contents(&self, made: &Fact) -> Option<Vec<Item>> {
        let element = made.element?;
        let length = count(&sizes(made.shape.as_deref()?)?)?;
        if length > MAX_CONTENT
            || !(element.is_integer() || element == ElementType::Bool)
            || !self.node.domain.is_empty()
        {
            return None;
        }
        let items = match self.node.op.as_str() {
            "Shape" => Some(self.shape(0)?.get(self.shape_range()?)?.iter().map(item_of).collect()),
            "Size" => Some(vec![Item::Known(i64::try_from(count(&sizes(self.shape(0)?)?)?).ok()?)]),
            "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" => self.fact(0).contents.clone(),
            "Cast" => self.cast(element),
            "Concat" => self.concatenated(),
            "Gather" => self.gathered(),
            "Slice" => self.sliced(),
            "Expand" | "Tile" => self.repeated(length),
            "Where" => self.chosen(length),
            op => self.computed(op, length),
        };
        items.filter(|items| items.len() == length)
    }

    fn items(&self, input: usize) -> Option<&[Item]> {
        self.fact(input).contents.as_deref()
    }

    /// Between integer types, where every known element fits.
    fn cast(&self, to: ElementType) -> Option<Vec<Item>> {
        let items = self.items(0)?;
        if to == ElementType::Bool {
            return items.iter().map(|item| Some(Item::Known(i64::from(known(item)? != 0)))).collect();
        }
        let (low, high) = to.range()?;
        let fits = |item: &Item| known(item).is_none_or(|value| (low..=high).contains(&i128::from(value)));
        items.iter().all(fits).then(|| items.to_vec())
    }

    /// Vectors only: their elements lie behind each other.
    fn concatenated(&self) -> Option<Vec<Item>> {
        let mut all = Vec::new();
        for input in 0..self.node.inputs.len() {
            match self.shape(input)? {
                [Dim::Size(length)] => match self.items(input) {
                    Some(items) => all.extend_from_slice(items),
                    None => all.extend(vec![Item::Unknown; (*length).min(MAX_CONTENT + 1)]),
                },
                _ => return None,
            }
            if all.len() > MAX_CONTENT {
                return None;
            }
        }
        Some(all)
    }

    fn gathered(&self) -> Option<Vec<Item>> {
        let items = self.items(0).filter(|_| self.rank(0) == Some(1))?;
        let length = i64::try_from(items.len()).ok()?;
        let pick = |index: i64| {
            let index = if index < 0 { index.checked_add(length)? } else { index };
            items.get(usize::try_from(index).ok()?).cloned()
        };
        self.ints(1)?.into_iter().map(pick).collect()
    }

    fn sliced(&self) -> Option<Vec<Item>> {
        let items = self.items(0).filter(|_| self.rank(0) == Some(1))?;
        let only = |input| self.ints(input).filter(|list| list.len() == 1).map(|list| list[0]);
        let step = if self.has(4) { only(4)? } else { 1 };
        let (mut at, end) = slice_bounds(only(1)?, only(2)?, step, items.len())?;
        let mut cut = Vec::new();
        while if step > 0 { at < end } else { at > end } {
            cut.push(items.get(usize::try_from(at).ok()?)?.clone());
            at += i128::from(step);
        }
        Some(cut)
    }

    fn repeated(&self, length: usize) -> Option<Vec<Item>> {
        let items = self.items(0)?;
        match items {
            [one] => Some(vec![one.clone(); length]),
            _ => (items.len() == length).then(|| items.to_vec()),
        }
    }

    fn chosen(&self, length: usize) -> Option<Vec<Item>> {
        let (flags, yes, no) = (self.items(0)?, self.items(1)?, self.items(2)?);
        let choose = |at: usize| {
            let (flag, yes, no) = (lane(flags, length, at)?, lane(yes, length, at)?, lane(no, length, at)?);
            Some(match known(flag) {
                Some(0) => no.clone(),
                Some(_) => yes.clone(),
                None if yes == no => yes.clone(),
                None => Item::Unknown,
            })
        };
        (0..length).map(choose).collect()
    }

    /// Arithmetic of vectors with vectors as long, or with single elements.
    fn computed(&self, op: &str, length: usize) -> Option<Vec<Item>> {
        let (left, right) = (self.items(0)?, self.items(1)?);
        if self.node.inputs.len() != 2 || self.flag("fmod") {
            return None;
        }
        let unsigned = self.element(0)?.range().is_none_or(|(low, _)| low == 0);
        let compute = |at: usize| {
            let (a, b) = (lane(left, length, at)?, lane(right, length, at)?);
            if let (Some(x), Some(y)) = (known(a), known(b)) {
                return arithmetic(op, x, y).filter(|&value| !(unsigned && value < 0)).map(Item::Known);
            }
            let unchanged = match (op, a, b) {
                ("Mul" | "Div", symbol, Item::Known(1)) | ("Add" | "Sub", symbol, Item::Known(0)) => symbol.clone(),
                ("Mul", Item::Known(1), symbol) | ("Add", Item::Known(0), symbol) => symbol.clone(),
                ("Add" | "Sub" | "Mul" | "Div" | "Mod" | "Min" | "Max", _, _) => Item::Unknown,
                _ => return None,
            };
            Some(unchanged)
        };
        (0..length).map(compute).collect()
    }
}

/// An element of a vector that may be stretched from one.
fn lane(items: &[Item], length: usize, at: usize) -> Option<&Item> {
    if items.len() == 1 { items.first() } else { items.get(at).filter(|_| items.len() == length) }
}

fn known(item: &Item) -> Option<i64> {
    if let Item::Known(value) = item { Some(*value) } else { None }
}

fn item_of(dim: &Dim) -> Item {
    match dim {
        Dim::Size(size) => i64::try_from(*size).map_or(Item::Unknown, Item::Known),
        Dim::Symbol(name) => Item::Symbol(name.clone()),
        Dim::Unknown => Item::Unknown,
    }
}

/// ONNX's integer arithmetic; `None` where it overflows or the operator is another.
pub(crate) fn arithmetic(op: &str, a: i64, b: i64) -> Option<i64> {
    match op {
        "Add" => a.checked_add(b),
        "Sub" => a.checked_sub(b),
        "Mul" => a.checked_mul(b),
        // Towards zero, as C has it; the remainder has the sign of the divisor.
        "Div" => a.checked_div(b),
        "Mod" => {
            let rest = a.checked_rem(b)?;
            Some(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest })
        }
        "Min" => Some(a.min(b)),
        "Max" => Some(a.max(b)),
        "Equal" => Some(i64::from(a == b)),
        "Less" => Some(i64::from(a < b)),
        "Greater" => Some(i64::from(a > b)),
        "LessOrEqual" => Some(i64::from(a <= b)),
        "GreaterOrEqual" => Some(i64::from(a >= b)),
        "And" => Some(i64::from(a != 0 && b != 0)),
        "Or" => Some(i64::from(a != 0 || b != 0)),
        "Xor" => Some(i64::from((a != 0) != (b != 0))),
        _ => None,
    }
}
