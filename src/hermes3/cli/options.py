"""The options that commands take, as types: what they are called, and what `--help` says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str | None, typer.Option("--model", "-m", metavar="MODEL", help="Name, path or hf:owner/repo[:file].")
]
Ctx = Annotated[
    int | None, typer.Option("--ctx", "-c", min=1, help="Context in tokens, prompt and answer together.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, max=1024, help="CPU threads; default: physical cores.")
]

PrefixFolder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Keep computed system turns there, for the next run."),
]
KVDtype = Annotated[
    str | None,
    typer.Option(
        "--kv-dtype", metavar="TYPE", help="KV cache: f16, f32 or q8_0 (half of f16); default: by weights."
    ),
]
LatencyS = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Most that running answers wait for parts of prompts.")
]

Engine = Annotated[
    str | None, typer.Option("--engine", metavar="NAME", help="Own engine: hermes3 (default); or vllm.")
]
CtxOrLen = Annotated[
    int | None,
    typer.Option("--ctx", "-c", "--max-model-len", min=1, help="Context in tokens, prompt and answer."),
]
TensorParallel = Annotated[
    int | None, typer.Option("--tensor-parallel-size", min=1, help="For vllm: devices that share each layer.")
]
PipelineParallel = Annotated[
    int | None,
    typer.Option("--pipeline-parallel-size", min=1, help="For vllm: groups of devices for the layers."),
]
ExecutorBackend = Annotated[
    str | None,
    typer.Option(
        "--distributed-executor-backend", metavar="NAME",
        help="For vllm: mp, this machine; ray, a cluster of machines.",
    ),
]  # fmt: skip
DType = Annotated[
    str | None,
    typer.Option("--dtype", metavar="TYPE", help="For vllm: auto (default), float32, float16, bfloat16."),
]
GpuMemory = Annotated[
    float | None,
    typer.Option("--gpu-memory-utilization", help="For vllm: share of each device's memory, 0 to 1."),
]
EnforceEager = Annotated[
    bool | None,
    typer.Option("--enforce-eager", help="For vllm: starts sooner, runs slower: nothing is compiled."),
]

Prompt = Annotated[
    str | None,
    typer.Argument(metavar="PROMPT", show_default=False, help="The question; piped text goes below it."),
]
System = Annotated[str | None, typer.Option("--system", "-s", help="System message.")]
Temperature = Annotated[
    float | None, typer.Option("--temperature", "-t", help="0 takes the likeliest token; default: 0.8.")
]
TopP = Annotated[float | None, typer.Option(help="Only the likeliest tokens, up to this mass.")]
TopK = Annotated[int | None, typer.Option(help="Only the k likeliest tokens; 0: all.")]
MinP = Annotated[float | None, typer.Option(help="Only tokens this fraction as likely as the likeliest.")]
RepetitionPenalty = Annotated[
    float | None, typer.Option(help="Above 1: avoid what prompt and answer hold (Hugging Face's).")
]
PresencePenalty = Annotated[
    float | None, typer.Option(help="Above 0: avoid what the answer holds (OpenAI's).")
]
FrequencyPenalty = Annotated[float | None, typer.Option(help="The same, for each time that it does.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same answer.")]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", "-n", help="Tokens of the answer; default: what the context leaves."),
]
Stop = Annotated[list[str] | None, typer.Option(help="Text that ends the answer; may be given again.")]
Bos = Annotated[
    bool | None, typer.Option("--bos/--no-bos", help="BOS token in front; default: as the model's template.")
]
Stats = Annotated[bool, typer.Option("--stats", help="Tokens per second after each answer.")]

Tools = Annotated[
    list[Path] | None,
    typer.Option("--tools", metavar="FILE", help="A .py or .json file of tools; may be given again."),
]
ToolChoice = Annotated[
    str, typer.Option(metavar="CHOICE", help="Of the first answer: auto, required, none or a function.")
]
Depth = Annotated[
    int, typer.Option("--depth", min=1, max=100, help="Rounds of calls; the answer after them has no tools.")
]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.001, max=86400, metavar="SECONDS", help="What a call may take.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="What writes runs without asking.")]
PrintCalls = Annotated[
    bool, typer.Option("--print-calls", help="Print the first answer's calls as JSON lines; run nothing.")
]
Reasoning = Annotated[
    bool, typer.Option("--reasoning", help="Thoughts in tags may come first, and are told apart.")
]
Retry = Annotated[
    bool, typer.Option("--retry", help="Where no grammar can be made of a schema: check, and ask again.")
]
NoParallel = Annotated[bool, typer.Option("--no-parallel", help="At most one call in an answer.")]
TraceFile = Annotated[
    Path | None, typer.Option("--trace", metavar="FILE", help="Write all that happens to it, as JSON lines.")
]
ReplayFile = Annotated[
    Path | None,
    typer.Option("--replay", metavar="FILE", help="Answers and results out of a trace; nothing runs."),
]
SchemaFile = Annotated[
    str | None,
    typer.Option("--schema", metavar="SCHEMA", help="A .json file, or file.py:Class; default: any object."),
]

PullModel = Annotated[str, typer.Argument(metavar="MODEL", help="smol, 3b, 8b or hf:owner/repo[:file].")]

Host = Annotated[
    str | None, typer.Option(help="Address to listen on; 0.0.0.0: all of this machine's; default: 127.0.0.1.")
]
Port = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Port; 0: any free one; default: 8000.")
]
ServedModelName = Annotated[str | None, typer.Option(help="What /v1/models calls the model.")]
ApiKey = Annotated[
    list[str] | None, typer.Option(help="Key that clients must send; may be given again.")
]
ApiKeyFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Keys, or sha256:HEX of them, one a line, with a name.")
]
AllowedHost = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Name that this server answers to; *: any; may be given again."),
]
CorsOrigin = Annotated[
    list[str] | None,
    typer.Option(metavar="ORIGIN", help="Web page that may ask, https://example.org; may be given again."),
]
TlsCert = Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate chain, PEM: https.")]
TlsKey = Annotated[Path | None, typer.Option(metavar="FILE", help="The certificate's private key, PEM.")]
LogFormat = Annotated[
    str | None, typer.Option(metavar="FORMAT", help="Text, or json: an object a line; default: text.")
]
OtlpEndpoint = Annotated[
    str | None, typer.Option(metavar="URL", help="Collector that gets traces (OTLP, extra otel).")
]
TracePrompts = Annotated[bool | None, typer.Option(help="Whether traces hold what clients wrote.")]
ServerLimit = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="NAME=VALUE", help="A bound, as drain_s=60; may be given again."),
]
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Settings, TOML.")]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print the settings that hold, as a TOML file.")
]

Requests = Annotated[Path, typer.Argument(metavar="IN", help="Requests, a JSON object a line.")]
Answers = Annotated[Path, typer.Argument(metavar="OUT", help="Answers, appended to what is there.")]
AtOnce = Annotated[
    int, typer.Option("--at-once", min=1, max=256, help="Answers in work at a time; more take more memory.")
]

Ray = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="Over a Ray cluster's machines; local: a new one, here."),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, max=4096, help="With --ray: engines at work; default: one a machine."),
]

Prefill = Annotated[int, typer.Option("--prefill", min=1, help="Tokens of the prompt.")]
Decode = Annotated[int, typer.Option("--decode", min=2, help="Tokens of the answer.")]
Runs = Annotated[int, typer.Option("--runs", min=1, help="Runs; their medians are printed.")]
JsonOnly = Annotated[bool, typer.Option("--json", help="Nothing but one line of JSON.")]

Source = Annotated[
    str, typer.Argument(metavar="IN", help="A .gguf file, a folder, smol, 3b, 8b or hf:owner/repo[:file].")
]
Target = Annotated[str, typer.Argument(metavar="OUT", help="What to write; must not exist yet.")]
FloatType = Annotated[
    str | None, typer.Option("--to", metavar="TYPE", help="Of floats: f32, f16, bf16, fp8; default: kept.")
]
QuantizedType = Annotated[
    str, typer.Option("--to", metavar="TYPE", help="Of the weights; the list is above.")
]
Requantize = Annotated[
    bool, typer.Option("--requantize", help="Take a source that is quantized already, and lose twice.")
]

Models = Annotated[
    list[str], typer.Argument(metavar="REFERENCE MODEL...", help="Others are compared with the first.")
]
TextFile = Annotated[
    Path, typer.Option("--text", metavar="FILE", help="UTF-8 text to read; the longer, the surer.")
]
Window = Annotated[
    int, typer.Option("--ctx", "-c", min=4, max=16384, help="Tokens of a window; its second half is scored.")
]
Windows = Annotated[
    int | None, typer.Option("--windows", min=1, help="At most so many; default: the whole text.")
]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE.svg", help="Draw the divergence of all tokens.")
]

EvalModel = Annotated[str, typer.Argument(metavar="MODEL", help="Name, path or hf:owner/repo[:file].")]
Suite = Annotated[
    str, typer.Option("--suite", help="Any of gpt4all, agieval, bbh, card, tasks, with commas; bfcl; json.")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Documents of each task; default: all.")]
Data = Annotated[
    Path | None, typer.Option("--data", help="Folder of local data, TASK.jsonl[.gz]; default: the hub.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the results; default: hermes3-eval/NAME.")]
ChatTemplate = Annotated[
    bool, typer.Option("--chat-template", help="Prompts as conversations in the model's template.")
]
Enforce = Annotated[
    bool | None,
    typer.Option(
        "--enforce/--no-enforce",
        help="Only answers held to the schemas, or only free ones; default: both. For bfcl and json.",
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Answers of an earlier run are thrown away.")]

CardFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="The model's folder, where README.md is written.")
]
Results = Annotated[
    list[Path] | None,
    typer.Option("--eval", metavar="RESULTS", help="A results.json or its folder; may be given again."),
]
Recipe = Annotated[
    Path | None, typer.Option("--recipe", metavar="FILE", help="Of the training run, TOML or JSON.")
]
CardFile = Annotated[
    str | None, typer.Option("--file", metavar="NAME", help="Which .gguf file, where DIR has several.")
]
CardName = Annotated[str | None, typer.Option("--name", help="What the card calls the model.")]
License = Annotated[
    str | None, typer.Option("--license", help="The hub's name of it, as apache-2.0, llama3.")
]
BaseModel = Annotated[str | None, typer.Option("--base-model", metavar="REPO", help="What it was made from.")]
NoRun = Annotated[bool, typer.Option("--no-run", help="Run no examples; the card then says so.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite a README.md that is there.")]

Calibrate = Annotated[
    Path | None, typer.Option("--calibrate", metavar="FILE", help="Text that says which weights matter.")
]
