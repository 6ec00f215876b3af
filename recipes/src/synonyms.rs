//! Other trainers' names for our keys.
//!
//! Responsible for: one table that maps names of Hugging Face `TrainingArguments`, PEFT, TRL, Axolotl, LLaMA-Factory
//! and Unsloth to our keys. Must not depend on: how an unknown key is reported.

/// Our equivalent of another trainer's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The same setting under our name.
    Key(&'static str),
    /// The same setting in another form. The text is the form to write.
    Write(&'static str),
    /// A setting that tonfall doesn't have. The text is the reason.
    Remove(&'static str),
}

use Meaning::{Key, Remove, Write};

/// Names in lower case with underscores. Each name occurs once.
#[rustfmt::skip]
const SYNONYMS: &[(&[&str], Meaning)] = &[
    (&["model", "model_name", "model_id", "model_path", "model_name_or_path", "base_model", "pretrained_model_name_or_path"], Key("base")),
    (&["run_name", "project_name"], Key("name")),
    (&["output", "out_dir", "save_dir", "logging_dir"], Key("output_dir")),
    (&["data_seed", "random_state", "random_seed"], Key("seed")),
    (&["load_in_4bit", "quantization_bit", "bnb_4bit_quant_type", "quant_type", "load_in_8bit", "qlora"], Write("`quantization = \"nf4\"` at the top")),
    (&["finetuning_type", "peft_type", "train_type", "tuner_type"], Key("adapter.kind")),
    (&["r", "lora_r", "lora_rank", "lora_dim"], Key("lora.rank")),
    (&["lora_alpha"], Key("lora.alpha")),
    (&["lora_dropout"], Key("lora.dropout")),
    (&["rslora", "rs_lora"], Key("lora.use_rslora")),
    (&["lora_target_modules", "lora_target", "lora_target_linear", "modules"], Key("lora.target_modules")),
    (&["adapter_name_or_path", "adapter_path", "lora_model_dir", "resume_from_adapter"], Key("lora.init")),

    (&["train_file", "train_data", "train_dataset", "dataset_name", "dataset_path", "dataset", "datasets", "data_path", "data_files"], Key("data.train")),
    (&["eval_file", "eval_data", "eval_dataset", "validation_file", "test_datasets", "val_data"], Key("data.eval")),
    (&["val_set_size", "val_size", "test_size", "validation_split", "eval_split_ratio"], Key("data.eval_fraction")),
    (&["dataset_format", "formatting", "chat_format"], Key("data.format")),
    (&["dataset_text_field", "text_field", "text_column", "field_messages"], Write("`columns = { text = \"…\" }` under [data]")),
    (&["max_length", "max_seq_length", "seq_length", "seq_len", "sequence_len", "sequence_length", "cutoff_len", "model_max_length", "block_size", "context_length"], Key("data.max_seq_len")),
    (&["sample_packing", "pack", "neat_packing", "eval_packing"], Key("data.packing")),
    (&["train_on_inputs", "train_on_prompt", "assistant_only_loss", "completion_only_loss", "train_on_responses_only", "mask_history"], Key("data.train_on")),
    (&["template", "jinja_template", "chat_template_path", "custom_chat_template"], Key("data.chat_template")),
    (&["truncation", "truncation_strategy", "excess_length_strategy"], Key("data.overflow")),

    (&["num_epochs", "num_train_epochs", "n_epochs", "epoch", "max_epochs"], Key("training.epochs")),
    (&["steps", "num_steps", "max_train_steps", "num_training_steps", "iters", "max_iters"], Key("training.max_steps")),
    (&["batch_size", "train_batch_size", "per_device_train_batch_size", "per_device_batch_size", "device_batch_size"], Key("training.micro_batch_size")),
    (&["gradient_accumulation", "grad_accumulation_steps", "grad_accum_steps", "grad_accumulation", "accumulate_grad_batches", "accumulation_steps"], Key("training.gradient_accumulation_steps")),
    (&["lr", "learning_rates", "base_lr", "max_lr", "peak_lr"], Key("training.learning_rate")),
    (&["lr_scheduler", "lr_scheduler_type", "scheduler", "scheduler_type", "lr_schedule", "lr_decay_style"], Key("training.schedule")),
    (&["warmup", "lr_warmup_steps", "num_warmup_steps"], Key("training.warmup_steps")),
    (&["warmup_fraction", "lr_warmup_ratio"], Key("training.warmup_ratio")),
    (&["optim", "optimizer_type", "optimizer_name"], Key("training.optimizer")),
    (&["wd", "decay"], Key("training.weight_decay")),
    (&["adam_beta1"], Key("training.beta1")),
    (&["adam_beta2"], Key("training.beta2")),
    (&["adam_epsilon", "adam_eps", "eps"], Key("training.epsilon")),
    (&["gradient_clipping", "grad_clip", "clip_grad", "max_norm", "gradient_clip_val", "clip_grad_norm"], Key("training.max_grad_norm")),
    (&["gradient_checkpointing", "use_gradient_checkpointing", "activation_checkpointing", "activation_offloading"], Key("training.recompute")),
    (&["logging_steps", "log_steps", "log_interval"], Key("training.log_every")),
    (&["save_steps", "save_interval", "checkpoint_every"], Key("training.save_every")),
    (&["save_total_limit", "keep_last"], Key("training.keep_checkpoints")),
    (&["eval_steps", "eval_interval", "evaluation_steps"], Key("evaluation.every")),
    (&["merge", "merged", "merge_lora", "save_merged"], Write("`to = [\"peft\", \"safetensors\"]` under [export]")),
    (&["gguf", "save_gguf", "quantization_method"], Write("`to = [\"gguf\"]` and `types = [\"Q4_K_M\"]` under [export]")),

    (&["bf16", "fp16", "tf32", "torch_dtype", "dtype", "mixed_precision", "compute_dtype", "bnb_4bit_compute_dtype"], Remove("the device decides the precision; `tonfall doctor` prints it")),
    (&["bias", "task_type", "fan_in_fan_out", "modules_to_save"], Remove("adapters here are LoRA on linear layers for causal language models")),
    (&["flash_attention", "attn_implementation", "flash_attn", "sdp_attention", "use_liger_kernel"], Remove("the attention kernel is chosen by device")),
    (&["report_to", "wandb_project"], Remove("`tonfall metrics` exports to Prometheus and TensorBoard")),
    (&["push_to_hub", "hub_model_id"], Remove("a run writes local files only")),
    (&["save_strategy", "eval_strategy", "evaluation_strategy", "logging_strategy"], Remove("training.save_every, evaluation.every and training.log_every count steps")),
    (&["deepspeed", "fsdp", "fsdp_config", "ddp"], Remove("start one process per GPU with torchrun; a recipe has no setting for it")),
    (&["dataloader_num_workers", "dataset_num_proc", "preprocessing_num_workers", "num_workers"], Remove("all CPU cores are used")),
];

/// Tables of other trainers.
const TABLES: &[(&[&str], &str)] = &[
    (&["train", "trainer", "training_args", "training_arguments", "optim", "optimizer"], "training"),
    (&["peft", "peft_config", "lora_config", "adapter_config"], "lora"),
    (&["dataset", "datasets"], "data"),
    (&["eval", "validation"], "evaluation"),
    (&["output", "save"], "export"),
];

/// Our equivalent of `name`, another trainer's key without its table.
pub(crate) fn key(name: &str) -> Option<Meaning> {
    let name = normalised(name);
    SYNONYMS.iter().find(|(names, _)| names.contains(&name.as_str())).map(|(_, meaning)| *meaning)
}

/// Our name of another trainer's table.
pub(crate) fn table(name: &str) -> Option<&'static str> {
    let name = normalised(name);
    TABLES.iter().find(|(names, _)| names.contains(&name.as_str())).map(|(_, table)| *table)
}

fn normalised(name: &str) -> String {
    name.to_lowercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn every_synonym_is_unique_and_names_an_existing_key() {
        let mut seen = std::collections::BTreeSet::new();
        for (names, meaning) in SYNONYMS {
            if let Key(key) = meaning {
                assert!(schema::find(key).is_some(), "{key}");
            }
            for name in *names {
                assert!(seen.insert(*name), "{name} stands twice");
                assert_eq!(*name, normalised(name));
            }
        }
        for (_, table) in TABLES {
            assert!(schema::TABLES.iter().any(|(known, _)| known == table), "{table}");
        }
    }

    #[test]
    fn names_of_other_trainers_are_known() {
        assert_eq!(key("lr"), Some(Key("training.learning_rate")));
        assert_eq!(key("per-device-train-batch-size"), Some(Key("training.micro_batch_size")));
        assert_eq!(key("Sequence_Len"), Some(Key("data.max_seq_len")));
        assert!(matches!(key("bf16"), Some(Remove(_))));
        assert_eq!((key("rank"), table("trainer")), (None, Some("training")));
    }
}
