//! The layers of a transformer, and what LoRA files call them.

use serde_json::Value;

/// The figures of a transformer's `config.json` that its layers' shapes follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    blocks: u64,
    dim: u64,
    ffn: u64,
    text: u64,
    freq: u64,
    out: u64,
}

impl Sizes {
    /// None where the configuration lacks one of them.
    pub fn read(config: &Value) -> Option<Self> {
        let number = |name: &str| config[name].as_u64();
        let patch: u64 = config["patch_size"]
            .as_array()?
            .iter()
            .map(Value::as_u64)
            .product::<Option<_>>()?;
        Some(Self {
            blocks: number("num_layers")?,
            dim: number("num_attention_heads")?.checked_mul(number("attention_head_dim")?)?,
            ffn: number("ffn_dim")?,
            text: number("text_dim")?,
            freq: number("freq_dim")?,
            out: number("out_channels")?.checked_mul(patch)?,
        })
    }

    /// Output and input of a linear layer, by the authors' name of it.
    pub fn linear(&self, layer: &str) -> Option<(u64, u64)> {
        let Self { dim, ffn, .. } = *self;
        match layer {
            "text_embedding.0" => Some((dim, self.text)),
            "text_embedding.2" | "time_embedding.2" => Some((dim, dim)),
            "time_embedding.0" => Some((dim, self.freq)),
            "time_projection.1" => Some((6 * dim, dim)),
            "head.head" => Some((self.out, dim)),
            _ => match self.in_block(layer)? {
                "ffn.0" => Some((ffn, dim)),
                "ffn.2" => Some((dim, ffn)),
                part => {
                    let (attention, what) = part.split_once('.')?;
                    let known = ["self_attn", "cross_attn"].contains(&attention)
                        && ["q", "k", "v", "o"].contains(&what);
                    known.then_some((dim, dim))
                }
            },
        }
    }

    /// How many numbers a whole change of this name has, where there is a place for it.
    pub fn change(&self, layer: &str, suffix: &str) -> Option<u64> {
        let dim = self.dim;
        match (layer, suffix) {
            ("head", "diff_m") => return Some(2 * dim),
            ("head.head", "diff") => return Some(self.out * dim),
            ("head.head", "diff_b") => return Some(self.out),
            _ => {}
        }
        match (self.in_block(layer)?, suffix) {
            ("", "diff_m") => Some(6 * dim),
            ("norm3", "diff" | "diff_b") => Some(dim),
            (
                "self_attn.norm_q" | "self_attn.norm_k" | "cross_attn.norm_q" | "cross_attn.norm_k",
                "diff",
            ) => Some(dim),
            (_, "diff_b") => self.linear(layer).map(|(out, _)| out),
            _ => None,
        }
    }

    /// What stands behind `blocks.N`, of a block that the model has.
    fn in_block<'a>(&self, layer: &'a str) -> Option<&'a str> {
        let rest = layer.strip_prefix("blocks.")?;
        let (number, part) = rest.split_once('.').unwrap_or((rest, ""));
        let number: u64 = number.parse().ok()?;
        (number < self.blocks).then_some(part)
    }
}

/// Who named a file's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The authors' names, behind `diffusion_model.`
    Prefixed,
    /// The same, bare.
    Bare,
    /// diffusers' names, behind `transformer.`
    Diffusers,
    /// musubi-tuner's: the authors', underscores for dots, behind `lora_unet_`.
    Musubi,
}

impl Naming {
    /// How this key is named, and what stands behind the prefix.
    pub fn of(key: &str) -> (Self, &str) {
        if let Some(rest) = key.strip_prefix("diffusion_model.") {
            return (Self::Prefixed, rest);
        }
        if let Some(rest) = key.strip_prefix("transformer.") {
            return (Self::Diffusers, rest);
        }
        match key.strip_prefix("lora_unet_") {
            Some(rest) => (Self::Musubi, rest),
            None => (Self::Bare, key),
        }
    }

    /// The authors' name of a layer.
    pub fn authors(self, layer: &str) -> String {
        match self {
            Self::Prefixed | Self::Bare => layer.to_owned(),
            Self::Diffusers => of_diffusers(layer),
            Self::Musubi => of_musubi(layer),
        }
    }
}

const DIFFUSERS: [(&str, &str); 6] = [
    (
        "condition_embedder.text_embedder.linear_1",
        "text_embedding.0",
    ),
    (
        "condition_embedder.text_embedder.linear_2",
        "text_embedding.2",
    ),
    (
        "condition_embedder.time_embedder.linear_1",
        "time_embedding.0",
    ),
    (
        "condition_embedder.time_embedder.linear_2",
        "time_embedding.2",
    ),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("proj_out", "head.head"),
];
const IN_BLOCKS: [(&str, &str); 8] = [
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".to_q", ".q"),
    (".to_k", ".k"),
    (".to_v", ".v"),
    (".to_out.0", ".o"),
    (".ffn.net.0.proj", ".ffn.0"),
    (".ffn.net.2", ".ffn.2"),
];

fn of_diffusers(layer: &str) -> String {
    if let Some((_, name)) = DIFFUSERS.iter().find(|(theirs, _)| *theirs == layer) {
        return (*name).to_owned();
    }
    IN_BLOCKS
        .iter()
        .fold(layer.to_owned(), |name, (theirs, ours)| {
            name.replace(theirs, ours)
        })
}

/// `blocks_0_self_attn_q` and `blocks_0_ffn_0`; other names have no place anyway.
fn of_musubi(layer: &str) -> String {
    let name = |rest: &str| {
        let (number, part) = rest.split_once('_')?;
        let (part, last) = part.rsplit_once('_')?;
        Some(format!("blocks.{number}.{part}.{last}"))
    };
    let rest = layer.strip_prefix("blocks_");
    rest.and_then(name).unwrap_or_else(|| layer.to_owned())
}
