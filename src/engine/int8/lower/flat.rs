//! Rows of channels, as of 1-D convolutions, that are images of height or width 1 inside of regions.
//!
//! What goes value by value over such a row goes over the image, so that between two convolutions nothing is turned.
//! The row itself is there for who reads it otherwise, and dies where nobody does.

use super::super::function::{Binary, Unary};
use super::super::op::Op;
use super::super::program::{Type, ValueId as Id};
use super::reason::Reason;
use super::state::Lowering;
use std::sync::Arc;

/// Two operands, and the shape of the image that their function makes.
type Images = ([Id; 2], Vec<usize>);

impl Lowering<'_> {
    /// The image that a row is.
    pub fn image_of_row(&self, id: Id) -> Option<Id> {
        let step = self.makers.get(&id).map(|&step| &self.draft.steps[step])?;
        let (Op::Reshape, [source]) = (&step.op, step.inputs.as_slice()) else { return None };
        let (image, row) = (self.shape_of(*source), self.shape_of(id));
        let (&[n, c, h, w], &[n2, c2, length]) = (image.as_slice(), row.as_slice()) else { return None };
        ((n, c, h * w) == (n2, c2, length) && (h == 1 || w == 1)).then_some(*source)
    }

    /// Over the image, if the value is a row of one.
    pub fn float_function(&mut self, function: Unary, id: Id) -> Result<Id, Reason> {
        let (image, shape) = (self.image_of_row(id), self.shape_of(id));
        let from = image.unwrap_or(id);
        let made = self.emit(Op::Float(function), vec![from], self.shape_of(from), Type::F32)?;
        self.reshaped(made, image.map(|_| shape))
    }

    /// Operands as images and the shape of those, where one is a row of an image, and the other another or a constant.
    fn images_of_rows(&mut self, a: Id, b: Id, shape: &[usize]) -> Result<Option<Images>, Reason> {
        let found = [self.image_of_row(a), self.image_of_row(b)];
        let Some(image) = found[0].or(found[1]).map(|id| self.shape_of(id)) else { return Ok(None) };
        let row = [image[0], image[1], image[2] * image[3]];
        if shape != row {
            return Ok(None);
        }
        let mut operands = [a, b];
        for (operand, found) in operands.iter_mut().zip(found) {
            *operand = match found {
                Some(found) if self.shape_of(found) == image => found,
                Some(_) => return Ok(None),
                None => match self.constant_of_image(*operand)? {
                    Some(constant) => constant,
                    None => return Ok(None),
                },
            };
        }
        Ok(Some((operands, image)))
    }

    /// A constant of one value, or of one for each channel of a row, as an image meets it.
    fn constant_of_image(&mut self, id: Id) -> Result<Option<Id>, Reason> {
        let Some(&step) = self.makers.get(&id) else { return Ok(None) };
        let (Op::FloatConstant(values), shape) = (&self.draft.steps[step].op, self.shape_of(id)) else {
            return Ok(None);
        };
        let shape = match shape.as_slice() {
            _ if values.len() == 1 => vec![],
            &[c, 1] | &[1, c, 1] => vec![c, 1, 1],
            _ => return Ok(None),
        };
        let values = Arc::clone(values);
        self.emit(Op::FloatConstant(values), Vec::new(), shape, Type::F32).map(Some)
    }

    /// Two operands, or the whole that their function ends.
    pub fn float_pair(&mut self, function: Binary, a: Id, b: Id, shape: Vec<usize>) -> Result<Id, Reason> {
        let rows = self.images_of_rows(a, b, &shape)?;
        let ([a, b], image) = rows.clone().unwrap_or(([a, b], shape.clone()));
        let made = match self.whole(function, a, b, &image)? {
            Some(whole) => whole,
            None => self.emit(Op::FloatBinary(function), vec![a, b], image, Type::F32)?,
        };
        self.reshaped(made, rows.map(|_| shape))
    }
}
