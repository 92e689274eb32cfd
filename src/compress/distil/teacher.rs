//! The teacher in the training loop.
//!
//! Invariant: it sees each sample as the student does, changed copies too; no gradient goes into it.

use super::hint::Adapter;
use super::loss::{angles, distances, soft_binary, soft_targets};
use super::names::{embedding, find};
use super::{Recipe, Soft};
use crate::compress::data::{mix, tensor_of};
use crate::compress::probe::Probe;
use crate::compress::train::loss::{Form, by_labels, logits, rows};
use crate::compress::train::read;
use crate::compress::train::{self, Augmenter, Batch, Guide, Mode, Program, Run, Samples, State, Tap, values};
use crate::compress::{Error, Network};
use crate::onnx::graph::ValueId;
use crate::tensor::{Tensor as Given, TensorSpec};
use candle_core::{Device, Tensor, Var};
use std::collections::BTreeMap;

/// Of answers that are kept, so that a teacher is asked once about a sample that does not change.
const REMEMBERED: usize = 256 << 20;

/// What the teacher gave, by its values.
type Answers = BTreeMap<ValueId, Tensor>;

/// A teacher beside its student: puts what is learnt from it into the loop.
pub struct Teacher<'a> {
    probe: Probe,
    specs: Vec<TensorSpec>,
    recipe: Recipe,
    /// Of labels.
    smoothing: f32,
    logits: ValueId,
    /// The student's, and what they are.
    own_logits: (ValueId, Form),
    hints: Vec<Adapter>,
    /// What relations look at, in the teacher and in the student.
    related: Option<[ValueId; 2]>,
    /// By sample; `None` where samples change from time to time.
    known: Option<BTreeMap<usize, Answers>>,
    known_bytes: usize,
    inner: &'a mut dyn Guide,
}

impl std::fmt::Debug for Teacher<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Teacher").field("recipe", &self.recipe).field("hints", &self.hints).finish_non_exhaustive()
    }
}

impl<'a> Teacher<'a> {
    /// `inner` holds at the same time; [`train::Plain`] where there is nothing else.
    ///
    /// # Errors
    /// When teacher and student do not take or give the same, or a tensor that is named does not exist or cannot be
    /// compared.
    pub fn new(
        teacher: &Network,
        student: &Network,
        samples: Samples<'_>,
        recipe: &Recipe,
        training: &train::Recipe,
        inner: &'a mut dyn Guide,
    ) -> Result<Self, Error> {
        check_inputs(teacher, student)?;
        let none = || Error::unfit("a model without an output cannot teach, nor be taught");
        let (logits, own_logits) = ends(
            (teacher, logits(teacher).ok_or_else(none)?),
            (student, logits(student).ok_or_else(none)?),
            recipe.soft,
        )?;
        let hints = recipe.hints.iter().map(|hint| Adapter::new(hint, teacher, student));
        let hints = hints.collect::<Result<Vec<_>, _>>()?;
        let related = related(teacher, student, recipe)?;
        let mut wanted = vec![logits];
        wanted.extend(hints.iter().map(|hint| hint.teacher));
        wanted.extend(related.map(|[theirs, _]| theirs));
        let mut made = Self {
            probe: Probe::new(teacher, &wanted)?,
            specs: teacher.inputs.clone(),
            recipe: recipe.clone(),
            smoothing: training.label_smoothing,
            logits,
            own_logits,
            hints,
            related,
            known: training.augment.is_none().then(BTreeMap::new),
            known_bytes: 0,
            inner,
        };
        made.compare(student, samples, training.seed)?;
        Ok(made)
    }

    /// Asks both about one sample: adapters take their shapes from what they say.
    fn compare(&mut self, student: &Network, samples: Samples<'_>, seed: u64) -> Result<(), Error> {
        let Some(&first) = samples.train.first() else { return Ok(()) };
        let batch = read(samples.data, &[first], &Augmenter::default(), 0)?;
        let answers = self.answers(&batch)?;
        let own = Program::new(student, &|_| false)?.run(
            &batch.inputs,
            Mode::Inference,
            &self.own_values(),
            &mut train::NoTap,
        )?;
        self.check_answers(&answers[&self.logits], own.value(self.own_logits.0)?)?;
        let graph = student.graph();
        for (at, hint) in self.hints.iter_mut().enumerate() {
            let seed = mix(seed ^ mix(0x417 + at as u64));
            hint.fit(&answers[&hint.teacher], own.value(hint.student)?, seed).map_err(|error| {
                let name = &self.recipe.hints[at].teacher;
                Error::unfit(format!("the hint {name:?} to {:?}: {error}", graph.value(hint.student).name))
            })?;
        }
        Ok(())
    }

    fn check_answers(&self, theirs: &Tensor, own: &Tensor) -> Result<(), Error> {
        let (given, expected) = (own.elem_count(), theirs.elem_count());
        if given != expected {
            return Err(Error::unfit(format!(
                "the student's first output has {given} values and the teacher's {expected}: distillation needs the same \
                 classes in the same order"
            )));
        }
        let is_of_classes = theirs.dims().iter().filter(|&&size| size > 1).count() == 1;
        let is_binary = self.own_logits.1 == Form::Binary;
        if self.recipe.soft != Soft::MeanSquared && !is_binary && !is_of_classes {
            return Err(Error::unfit(format!(
                "the teacher's first output, of shape {:?}, is not one number for each class: state --soft mean-squared",
                theirs.dims()
            )));
        }
        Ok(())
    }

    fn own_values(&self) -> Vec<ValueId> {
        let hints = self.hints.iter().map(|hint| hint.student);
        hints.chain(self.related.map(|[_, own]| own)).chain([self.own_logits.0]).collect()
    }

    /// The teacher's values for a batch, samples outermost.
    fn answers(&mut self, batch: &Batch) -> Result<Answers, Error> {
        let mut each = Vec::with_capacity(batch.numbers.len());
        for (inputs, number) in batch.inputs.iter().zip(&batch.numbers) {
            match self.known.as_ref().and_then(|known| known.get(number)) {
                Some(answers) => each.push(answers.clone()),
                None => each.push(self.ask(inputs, *number)?),
            }
        }
        let of_value = |value: ValueId| {
            let parts: Vec<&Tensor> = each.iter().filter_map(|answers| answers.get(&value)).collect();
            Ok((value, Tensor::cat(&parts, 0)?))
        };
        each.first()
            .map(|first| first.keys().copied().collect::<Vec<_>>())
            .unwrap_or_default()
            .into_iter()
            .map(of_value)
            .collect()
    }

    fn ask(&mut self, inputs: &[Tensor], number: usize) -> Result<Answers, Error> {
        let given: Vec<Given> =
            inputs.iter().zip(&self.specs).map(|(input, spec)| given(input, spec)).collect::<Result<_, _>>()?;
        let mut answers = Answers::new();
        for (value, seen) in self.probe.run(&given)? {
            if seen.values.iter().any(|value| !value.is_finite()) {
                return Err(Error::unfit(format!(
                    "the teacher's answer to sample {number} is no finite number: judge it with `selvedge eval` first"
                )));
            }
            let shape = if seen.shape.is_empty() { vec![1] } else { seen.shape };
            if shape[0] != 1 {
                return Err(Error::unfit(format!(
                    "a tensor of the teacher has shape {shape:?}, which does not begin with samples: name another"
                )));
            }
            answers.insert(value, Tensor::from_vec(seen.values, shape, &Device::Cpu)?);
        }
        let bytes: usize = answers.values().map(|tensor| 4 * tensor.elem_count()).sum();
        if let Some(known) = self.known.as_mut().filter(|_| self.known_bytes + bytes <= REMEMBERED) {
            self.known_bytes += bytes;
            known.insert(number, answers.clone());
        }
        Ok(answers)
    }

    /// By labels and soft targets: a mean over samples, each by its labels as far as it has one.
    fn response(&self, batch: &Batch, run: &Run, labelled: Option<Tensor>, answers: &Answers) -> Result<Tensor, Error> {
        let (own, alpha) = (run.value(self.own_logits.0)?, self.recipe.alpha);
        let (theirs, temperature, soft) = (&answers[&self.logits], self.recipe.temperature, self.recipe.soft);
        let soft = match self.own_logits.1 {
            Form::Binary if soft != Soft::MeanSquared => soft_binary(own, theirs, temperature, soft)?,
            Form::Logits | Form::Logarithms | Form::Binary => soft_targets(own, theirs, temperature, soft)?,
        };
        let share = |label: &Option<_>| if label.is_some() { 1.0 - alpha } else { 1.0 };
        let shares: Vec<f32> = batch.labels.iter().map(share).collect();
        let count = shares.len();
        let soft = ((soft * Tensor::from_vec(shares, count, &Device::Cpu)?)?.sum_all()? * (1.0 / count as f64))?;
        let with: Vec<u32> = (0..).zip(&batch.labels).filter(|(_, label)| label.is_some()).map(|(at, _)| at).collect();
        if with.is_empty() || alpha == 0.0 {
            return Ok(soft);
        }
        let (part, count_with) = (with.len() as f64 / count as f64, with.len());
        let hard = match labelled {
            Some(hard) => hard,
            None => {
                let rows = rows(own)?.index_select(&Tensor::from_vec(with, count_with, &Device::Cpu)?, 0)?;
                let labels: Vec<_> = batch.labels.iter().filter(|label| label.is_some()).cloned().collect();
                by_labels(&rows, self.own_logits.1, &labels, self.smoothing)?
            }
        };
        Ok((hard.affine(f64::from(alpha) * part, 0.0)? + soft)?)
    }
}

impl Tap for Teacher<'_> {
    fn value(&mut self, value: ValueId, tensor: Tensor) -> candle_core::Result<Tensor> {
        self.inner.value(value, tensor)
    }
}

impl Guide for Teacher<'_> {
    fn wanted(&self) -> Vec<ValueId> {
        let mut wanted = self.own_values();
        wanted.extend(self.inner.wanted());
        wanted
    }

    fn variables(&self) -> Vec<(Var, f32)> {
        let own = self.hints.iter().flat_map(Adapter::variables).map(|variable| (variable.clone(), 1.0));
        own.chain(self.inner.variables()).collect()
    }

    fn loss(&mut self, batch: &Batch, run: &Run, labelled: Option<Tensor>) -> Result<Tensor, Error> {
        let answers = self.answers(batch)?;
        let mut loss = self.response(batch, run, labelled, &answers)?;
        let mut add = |weight: f32, part: Tensor| -> Result<(), Error> {
            loss = (&loss + part.affine(f64::from(weight), 0.0)?)?;
            Ok(())
        };
        for hint in &self.hints {
            add(hint.weight, hint.loss(&answers[&hint.teacher], run.value(hint.student)?)?)?;
        }
        if let (Some([theirs, own]), Some(relations)) = (self.related, &self.recipe.relations) {
            let (theirs, own) = (&answers[&theirs], run.value(own)?);
            if relations.distance > 0.0 {
                add(relations.distance, distances(own, theirs)?)?;
            }
            if relations.angle > 0.0 {
                add(relations.angle, angles(own, theirs)?)?;
            }
        }
        self.inner.loss(batch, run, Some(loss))
    }

    fn judged(&mut self, batch: &Batch, run: &Run, labelled: Option<Tensor>) -> Result<Tensor, Error> {
        let answers = self.answers(batch)?;
        let loss = self.response(batch, run, labelled, &answers)?;
        self.inner.judged(batch, run, Some(loss))
    }

    fn keep(&mut self) {
        self.inner.keep();
    }

    fn save(&self, state: &mut State) {
        self.inner.save(state);
    }

    fn restore(&mut self, state: &mut State) -> Result<(), Error> {
        self.inner.restore(state)
    }

    fn project(&mut self, program: &Program) -> Result<(), Error> {
        self.inner.project(program)
    }
}

/// Names may differ where there is one input.
fn check_inputs(teacher: &Network, student: &Network) -> Result<(), Error> {
    let several = teacher.inputs.len() > 1;
    let same = |(theirs, own): (&TensorSpec, &TensorSpec)| {
        theirs.shape == own.shape && theirs.datatype == own.datatype && (!several || theirs.name == own.name)
    };
    if teacher.inputs.len() == student.inputs.len() && teacher.inputs.iter().zip(&student.inputs).all(same) {
        return Ok(());
    }
    let told = |network: &Network| {
        let each = network.inputs.iter().map(|spec| format!("{:?} of {}", spec.name, spec.form()));
        each.collect::<Vec<_>>().join(", ")
    };
    Err(Error::unfit(format!(
        "teacher and student must take the same: the teacher takes {}, the student {}",
        told(teacher),
        told(student)
    )))
}

type End = (ValueId, Form);

/// Where both are compared: before a Softmax or a Sigmoid. Where one ends in a Sigmoid and the other does not, only what they
/// give is of one kind.
fn ends(teacher: (&Network, End), student: (&Network, End), soft: Soft) -> Result<(ValueId, End), Error> {
    let is_binary = [teacher, student].map(|(_, (_, form))| form == Form::Binary);
    if is_binary[0] == is_binary[1] {
        return Ok((teacher.1.0, student.1));
    }
    let of = |network: &Network| network.graph().outputs.first().map(|port| port.value);
    if let (Soft::MeanSquared, Some(theirs), Some(own)) = (soft, of(teacher.0), of(student.0)) {
        return Ok((theirs, (own, Form::Logits)));
    }
    let [with, without] = if is_binary[0] { ["teacher", "student"] } else { ["student", "teacher"] };
    Err(Error::unfit(format!(
        "the {with} ends in a Sigmoid, each output a probability for itself, and the {without} does not: give it one, or state \
         --soft mean-squared, which compares what they give"
    )))
}

fn related(teacher: &Network, student: &Network, recipe: &Recipe) -> Result<Option<[ValueId; 2]>, Error> {
    let Some(relations) = &recipe.relations else { return Ok(None) };
    let of = |network: &Network, name: &Option<String>, whose: &str| match name {
        Some(name) => find(network, name, whose),
        None => embedding(network).ok_or_else(|| Error::unfit(format!("the {whose} has no output"))),
    };
    Ok(Some([of(teacher, &relations.teacher, "teacher")?, of(student, &relations.student, "student")?]))
}

fn given(input: &Tensor, spec: &TensorSpec) -> Result<Given, Error> {
    let values: Vec<f64> = values(&input.to_dtype(candle_core::DType::F32)?)?.into_iter().map(f64::from).collect();
    tensor_of(spec.datatype, spec.shape.clone(), &values)
        .ok_or_else(|| Error::unfit(format!("a value of input {:?} is none of type {}", spec.name, spec.datatype)))
}
