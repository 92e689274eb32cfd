//! The steps of quantizing, with what is learnt from data kept between them: trying layers in other forms costs no new
//! walk over the data.

use super::adaround::adaround;
use super::bias::bias_correction;
use super::observe::{self, Choice, Observed, Samples};
use super::place::{Layer, Placed, Wishes, is_named, name_of, place};
use super::recipe::{Equalize, Form, Recipe, Rounding};
use super::rescale;
use super::rows::Rows;
use super::scheme::{Affine, Levels, Range};
use super::weights::{IntegerWeights, Matrix, WeightScheme, smallest_scale};
use super::write::{self, Integers, LayerIntegers, Quantized};
use crate::compress::data::Dataset;
use crate::compress::{Error, Network, Progress};
use crate::onnx::graph::{NodeId, ValueId};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// Under which the recipe stands in the file.
const METADATA: &str = "selvedge.quantize";

/// A float model with all that calibration tells of it.
#[derive(Debug)]
pub struct Prepared {
    /// After equalization and the like.
    pub network: Network,
    pub recipe: Recipe,
    pub placed: Placed,
    pub observed: BTreeMap<ValueId, Observed>,
    /// Nodes that stay float for what they hold.
    spared: Vec<String>,
    rows: BTreeMap<NodeId, Rows>,
    /// Layers as they came out before: a search tries the same ones again and again, and AdaRound takes its time.
    made: RefCell<BTreeMap<LayerKey, LayerIntegers>>,
    /// Scales of weights that training has learnt, by layer: one, or one for each channel.
    pub learnt: BTreeMap<NodeId, Vec<f32>>,
    /// What was done before quantizing, for people.
    pub notes: Vec<String>,
}

/// What a layer's integers depend on: itself, its bits, whether they are rounded by its outputs, and its input's scale (as
/// bits) and zero point.
type LayerKey = (NodeId, u32, bool, Option<(u32, i32)>);

/// Which layers deviate from the recipe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exceptions {
    pub float: BTreeSet<String>,
    /// Additions and the like all stay in float.
    pub no_elementwise: bool,
    /// Weights are rounded as outputs are met best, whatever the recipe says.
    pub adaround: bool,
    /// Bits of weights by layer.
    pub bits: BTreeMap<String, u32>,
}

/// Looks at the model and the data.
///
/// # Errors
/// When nothing in the model can be quantized, or the data does not run through it.
pub fn prepare(
    network: &Network,
    data: Option<(&Dataset, &[usize])>,
    recipe: &Recipe,
    progress: &mut dyn Progress,
) -> Result<Prepared, Error> {
    recipe.check()?;
    let numbers = data.map(|(_, numbers)| spread(numbers, recipe.samples)).unwrap_or_default();
    let samples =
        data.map(|(data, _)| Samples { data, numbers: &numbers }).filter(|samples| !samples.numbers.is_empty());
    if recipe.needs_data() && samples.is_none() {
        let need = "this form of quantization needs calibration data: state --data, or --form dynamic";
        return Err(Error::unfit(need));
    }
    let (network, notes) = rescaled(network, samples, recipe, progress)?;
    check_names(&network, &recipe.keep)?;
    let placed = place_by(&network, recipe, &[], &Exceptions::default());
    if placed.layers.is_empty() {
        return Err(nothing_to_do(&network, &placed));
    }
    let (observed, spared, rows, made, learnt) = Default::default();
    let recipe = recipe.clone();
    let mut prepared = Prepared { network, recipe, placed, observed, spared, rows, made, learnt, notes };
    if let Some(samples) = samples.filter(|_| prepared.recipe.form == Form::Static) {
        prepared.observe(samples, progress)?;
    }
    Ok(prepared)
}

/// The same model in a form that quantizes better, and what was done.
fn rescaled(
    network: &Network,
    samples: Option<Samples<'_>>,
    recipe: &Recipe,
    progress: &mut dyn Progress,
) -> Result<(Network, Vec<String>), Error> {
    let mut network = network.clone();
    let mut notes = Vec::new();
    let facts = network.facts();
    rescale::gemm_of_products(&mut network.model.graph, &facts);
    rescale::plain_gemm(&mut network.model.graph);
    if recipe.equalize != Equalize::Off {
        let (pairs, replaced) = rescale::equalize(&mut network.model.graph, recipe.equalize == Equalize::All);
        if pairs > 0 {
            notes.push(format!("equalized {pairs} pairs of convolutions"));
        }
        if !replaced.is_empty() {
            notes.push(format!("{} Clips became ReLUs, so that channels can be scaled", replaced.len()));
        }
    }
    if let (Some(alpha), Some(samples)) = (recipe.smooth, samples) {
        notes.push(smooth(&mut network, samples, alpha, progress)?);
    }
    Ok((network, notes))
}

fn nothing_to_do(network: &Network, placed: &Placed) -> Error {
    if network.graph().nodes().any(|(_, node)| node.is("DequantizeLinear")) {
        return Error::unfit("the model is quantized already: start from the float one");
    }
    let why = placed.kept.first().map_or_else(String::new, |kept| format!(": {} stays float, {}", kept.name, kept.why));
    Error::unfit(format!("there is no Conv, Gemm or MatMul with constant weights to quantize{why}"))
}

/// So many of them, evenly.
fn spread(numbers: &[usize], most: usize) -> Vec<usize> {
    let count = numbers.len().min(most);
    (0..count).map(|at| numbers[at * numbers.len() / count]).collect()
}

fn choice(recipe: &Recipe) -> Choice {
    let scheme = &recipe.activations;
    let levels = Levels::of_activations(scheme.bits, scheme.signed);
    Choice { calibration: scheme.calibration, levels, symmetric: scheme.symmetric }
}

fn place_by(network: &Network, recipe: &Recipe, spared: &[String], exceptions: &Exceptions) -> Placed {
    let keep = recipe.keep.iter().chain(spared).chain(&exceptions.float).cloned().collect();
    let elementwise = if exceptions.no_elementwise { Some(false) } else { recipe.elementwise };
    place(network.graph(), &network.facts(), &Wishes { keep, elementwise })
}

/// Concatenations of values so different that the small ones would all be 0 by the scale of the large ones: boxes and
/// scores of a detector.
fn uneven(network: &Network, placed: &Placed, observed: &BTreeMap<ValueId, Observed>) -> Vec<String> {
    const MOST: f32 = 16.0;
    let graph = network.graph();
    let is_uneven = |id: &&NodeId| {
        let Some(node) = graph.node(**id).filter(|node| node.is("Concat")) else { return false };
        let sizes =
            node.inputs.iter().flatten().filter_map(|value| observed.get(value)).map(|seen| seen.range.largest());
        let (least, most) =
            sizes.fold((f32::INFINITY, 0.0_f32), |(least, most), size| (least.min(size), most.max(size)));
        least > 0.0 && most > least * MOST
    };
    let nodes = placed.elementwise.iter().filter(is_uneven);
    nodes.filter_map(|&id| Some(name_of(graph, graph.node(id)?))).collect()
}

/// Every name of a layer that is to be kept has to be one.
fn check_names(network: &Network, keep: &[String]) -> Result<(), Error> {
    let graph = network.graph();
    let names: Vec<String> = graph.nodes().map(|(_, node)| name_of(graph, node)).collect();
    for wish in keep {
        if names.iter().any(|name| is_named(name, wish)) {
            continue;
        }
        let nearest =
            names.iter().max_by(|a, b| strsim::jaro_winkler(a, wish).total_cmp(&strsim::jaro_winkler(b, wish)));
        let nearest = nearest.map_or_else(String::new, |name| format!("; the nearest is {name:?}"));
        return Err(Error::unfit(format!("no node has the name {wish:?} that is to be kept in float{nearest}")));
    }
    Ok(())
}

fn smooth(
    network: &mut Network,
    samples: Samples<'_>,
    alpha: f32,
    progress: &mut dyn Progress,
) -> Result<String, Error> {
    let found = rescale::smoothable(network.graph());
    let values: Vec<ValueId> = found.iter().map(|at| at.value).collect();
    if values.is_empty() {
        return Ok("SmoothQuant: there is no LayerNormalization that only products read".into());
    }
    let mut largest = BTreeMap::<ValueId, Vec<f32>>::new();
    let mut probe = crate::compress::probe::Probe::new(network, &values)?;
    samples.each("outliers", progress, |sample| {
        for (value, seen) in probe.run(&sample.inputs)? {
            let width = seen.shape.last().copied().unwrap_or(1).max(1);
            let most = largest.entry(value).or_insert_with(|| vec![0.0; width]);
            seen.values.iter().enumerate().for_each(|(at, value)| most[at % width] = most[at % width].max(value.abs()));
        }
        Ok(())
    })?;
    let graph = &mut network.model.graph;
    let done = found.iter().filter(|at| rescale::smooth(graph, at, &largest[&at.value], alpha).is_some()).count();
    Ok(format!("SmoothQuant: {done} of {} LayerNormalizations took over outliers, alpha {alpha}", found.len()))
}

impl Prepared {
    /// Walks over the data: ranges of activations, and what layers multiply.
    fn observe(&mut self, samples: Samples<'_>, progress: &mut dyn Progress) -> Result<(), Error> {
        let (network, recipe) = (&self.network, &self.recipe);
        let values: Vec<ValueId> = self.placed.classes.keys().copied().collect();
        self.observed = observe::ranges(network, &values, samples, choice(recipe), progress)?;
        self.spared = uneven(network, &self.placed, &self.observed);
        let note = |name: &String| format!("{name} stays float: what it joins is of very different sizes");
        self.notes.extend(self.spared.iter().map(note));
        self.placed = place_by(network, recipe, &self.spared, &Exceptions::default());
        if recipe.rounding == Rounding::Adaround || recipe.bias_correction {
            let layers: Vec<&Layer> = self.placed.layers.iter().collect();
            let seen = observe::rows(network, &layers, samples, recipe.seed, progress)?;
            self.rows = layers.iter().map(|layer| layer.node).zip(seen).collect();
        }
        Ok(())
    }

    /// The model in integers, but for the exceptions.
    ///
    /// # Errors
    /// Where the graph cannot be written.
    pub fn quantized(&self, exceptions: &Exceptions, progress: &mut dyn Progress) -> Result<Quantized, Error> {
        let placed = self.placed_but(exceptions);
        let mut made = match self.recipe.form {
            Form::Static => write::qdq(&self.network, &placed, &self.integers(&placed, exceptions, progress)?)?,
            Form::Dynamic => {
                write::dynamic(&self.network, &placed, &self.layers(&placed, exceptions, &BTreeMap::new(), progress)?)?
            }
            Form::WeightsOnly => write::weights_only(
                &self.network,
                &placed,
                &self.layers(&placed, exceptions, &BTreeMap::new(), progress)?,
            )?,
        };
        let rounding = if exceptions.adaround { Rounding::Adaround } else { self.recipe.rounding };
        let note = serde_json::to_string(&Recipe { rounding, ..self.recipe.clone() }).unwrap_or_default();
        let metadata = &mut made.network.model.metadata;
        metadata.retain(|(key, _)| key != METADATA);
        metadata.push((METADATA.into(), note));
        Ok(made)
    }

    /// Whether there is data to round by outputs with, and it is not done yet.
    pub(super) fn may_round_better(&self) -> bool {
        self.recipe.form == Form::Static && self.recipe.rounding == Rounding::Nearest && !self.rows.is_empty()
    }

    /// How each class of activations is quantized.
    pub(super) fn activations(&self, placed: &Placed) -> BTreeMap<usize, Affine> {
        let scheme = &self.recipe.activations;
        let levels = Levels::of_activations(scheme.bits, scheme.signed);
        let mut ranges = BTreeMap::<usize, Range>::new();
        for (value, &class) in &placed.classes {
            let range = self.observed.get(value).map_or(Range::EMPTY, |observed| observed.range);
            let all = ranges.entry(class).or_insert(Range::EMPTY);
            *all = all.union(range);
        }
        let affine = |range: Range| {
            if scheme.symmetric { Affine::symmetric(range, levels) } else { Affine::of_range(range, levels) }
        };
        ranges.into_iter().map(|(class, range)| (class, affine(range))).collect()
    }

    fn integers(
        &self,
        placed: &Placed,
        exceptions: &Exceptions,
        progress: &mut dyn Progress,
    ) -> Result<Integers, Error> {
        let scheme = &self.recipe.activations;
        let levels = Levels::of_activations(scheme.bits, scheme.signed);
        let activations = self.activations(placed);
        let graph = self.network.graph();
        let constant = |&(node, input): &(NodeId, usize)| {
            let values = graph.constant(graph.node(node)?.input(input)?)?.to_f32s()?;
            Some(((node, input), write::of_constant(&values, levels, scheme.symmetric)))
        };
        let constants = placed.constants.iter().filter_map(constant).collect();
        let layers = self.layers(placed, exceptions, &activations, progress)?;
        Ok(Integers { activations, constants, layers })
    }

    fn layers(
        &self,
        placed: &Placed,
        exceptions: &Exceptions,
        activations: &BTreeMap<usize, Affine>,
        progress: &mut dyn Progress,
    ) -> Result<Vec<LayerIntegers>, Error> {
        progress.step("weights", placed.layers.len());
        let mut layers = Vec::new();
        for (done, layer) in placed.layers.iter().enumerate() {
            let input = placed.classes.get(&layer.input).and_then(|class| activations.get(class));
            let scheme = self.scheme(layer, exceptions);
            let adaround = exceptions.adaround || self.recipe.rounding == Rounding::Adaround;
            let key = (layer.node, scheme.bits, adaround, input.map(|input| (input.scale.to_bits(), input.zero_point)));
            let known = self.made.borrow().get(&key).cloned();
            let integers = match known {
                Some(integers) => integers,
                None => self.layer(layer, &scheme, adaround, input)?,
            };
            self.made.borrow_mut().insert(key, integers.clone());
            layers.push(integers);
            progress.at(done + 1);
        }
        Ok(layers)
    }

    fn layer(
        &self,
        layer: &Layer,
        scheme: &WeightScheme,
        by_outputs: bool,
        input: Option<&Affine>,
    ) -> Result<LayerIntegers, Error> {
        let graph = self.network.graph();
        let unfit = || Error::unfit(format!("the weights of {:?} are no FLOAT tensor", layer.name));
        let matrix =
            graph.constant(layer.weight).and_then(|weight| Matrix::of(weight, layer.axis)).ok_or_else(unfit)?;
        if matrix.values.iter().any(|value| !value.is_finite()) {
            return Err(Error::unfit(format!("the weights of {:?} hold NaN or infinity", layer.name)));
        }
        let mut bias = layer.bias.and_then(|bias| graph.constant(bias)?.to_f32s());
        let smallest: Vec<f32> = match (&bias, input) {
            (Some(bias), Some(input)) => bias.iter().map(|&bias| smallest_scale(bias, input.scale)).collect(),
            _ => vec![],
        };
        let mut weights = IntegerWeights::nearest(&matrix, scheme, &smallest);
        if let Some(learnt) = self.learnt.get(&layer.node).filter(|_| scheme.bits == self.recipe.weights.bits) {
            weights = weights.rescaled(&matrix, learnt, &smallest);
        }
        if let (Some(rows), Some(input)) = (self.rows.get(&layer.node), input) {
            if by_outputs {
                weights.levels = adaround(&matrix, &weights, rows, input);
            }
            if self.recipe.bias_correction {
                let add = bias_correction(&matrix, &weights, rows, input);
                // A bias where there was none would be a layer of another form; MatMul has no place for one.
                if let Some(bias) = &mut bias {
                    bias.iter_mut().zip(add).for_each(|(bias, add)| *bias += add);
                }
            }
        }
        Ok(LayerIntegers { weights, bias })
    }

    /// What is quantized, but for the exceptions.
    pub(super) fn placed_but(&self, exceptions: &Exceptions) -> Placed {
        place_by(&self.network, &self.recipe, &self.spared, exceptions)
    }

    /// Weights are others now: what was learnt from data about the old ones is void.
    pub(super) fn forget_rows(&mut self) {
        self.rows.clear();
        self.made.borrow_mut().clear();
    }

    pub(super) fn scheme(&self, layer: &Layer, exceptions: &Exceptions) -> WeightScheme {
        let bits = exceptions.bits.get(&layer.name).copied().unwrap_or(self.recipe.weights.bits);
        // Few levels: outliers are worth cutting.
        let least_squares = self.recipe.weights.least_squares || bits <= 4;
        WeightScheme { bits, least_squares, ..self.recipe.weights }
    }
}
