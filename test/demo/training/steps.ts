// The training demo: a model learns to write on three ranks, loses one of them and is scaled 3 -> 4 -> 2 on its way, and is then served.
// Its curve has to be unbroken (checks.ts); how long things take is an aim.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { curveText, lossPlot } from "../../../operator/cli/loss-plot.ts";
import { kubectlOf, root, serviceAddress, type Target, waitReady } from "../../kit/deployment/product.ts";
import { ask } from "../../kit/gateway/openai-client.ts";
import { execOk, until } from "../../kit/processes/process.ts";
import { aimed, type Machine } from "../aims.ts";
import { nextLines } from "../next.ts";
import { firstSteps, type Show, stepGiveUpMs } from "../show.ts";
import { bold, cyan, dim, print, type Result } from "../view.ts";
import { breakOf, examine, knownWords, wordsOf } from "./checks.ts";
import { job, Session, sessionOf, type TrainingDemo } from "./session.ts";
import { fillFolder, folder, guideText, metricsFile, runFolder, storageObjects } from "./storage.ts";

const sample = "crds/samples/guides.yaml";
/** The share of all steps that the job makes before something is done to it. */
const learnShare = 0.15;
/** A model that has not learnt which letter follows which is above; one that draws from all bytes has 5.5. */
const lossMax = 2.5;
/** Steps whose mean is the loss at the end. */
const lastSteps = 20;
const firstStepAim = 30;
const pauseAim = 10;
/** With their answers they are as long as the sequences that the model has learnt on: beyond that it knows no places. */
const prompts = ["What is a rank? A rank ", "The operator ", "When a pod dies, "];
const sampling = { maxTokens: 100, temperature: 0.5, seed: 1 } as const;
/** Of the words of an answer so many have to be words of the guides: of random letters hardly one is. */
const knownShare = 0.3;

async function prepare(demo: TrainingDemo): Promise<string> {
  const { cluster, namespace, signal, log } = demo;
  if (cluster === undefined) throw new Error("no cluster");
  const kubectl = kubectlOf(cluster, namespace);
  await kubectl.apply(...storageObjects(namespace));
  // A run of before is over, and its files are made anew.
  await kubectl.run(["delete", `moet/${job}`, `moed/${job}`, "--ignore-not-found"]);
  const gone = async () => {
    const pods = [await kubectl.list("pods", `enodia.dev/training-job=${job}`), await kubectl.list("pods", `enodia.dev/deployment=${job}`)];
    return pods.flat().length === 0 ? true : undefined;
  };
  await until("the pods of a run of before to be gone", gone, { timeoutMs: stepGiveUpMs, signal });
  const tokens = await fillFolder(log, signal);
  return `${(tokens / 1000).toFixed(0)} thousand bytes of guides; 8 experts a layer, top-2`;
}

async function start(demo: TrainingDemo): Promise<string> {
  const { cluster, namespace, closers } = demo;
  if (cluster === undefined) throw new Error("no cluster");
  print(dim(`  kubectl -n ${namespace} apply -f ${sample}`));
  const kubectl = kubectlOf(cluster, namespace);
  await kubectl.run(["apply", "-f", join(root, sample)]);
  const { steps, replicas } = (await kubectl.get("moet", job)).spec;
  const session = new Session(demo, cluster, steps);
  demo.session = session;
  closers.push(async () => session.watch.close());
  await session.steady(replicas, 0);
  const { log } = session.watch;
  const enough = (): true | undefined => (log.step >= learnShare * steps ? true : undefined);
  await session.watch.until(`step ${learnShare * steps}`, enough, stepGiveUpMs);
  return `first step ${log.firstStepSeconds?.toFixed(1)} s after apply; loss ${log.lines[0]?.loss.toFixed(2)} -> ${log.lines.at(-1)?.loss.toFixed(2)}`;
}

async function killRank(demo: TrainingDemo): Promise<string> {
  const session = sessionOf(demo);
  const { epoch, ranks } = session.world;
  const victim = ranks[1];
  if (victim === undefined) throw new Error("the world has no rank 1");
  const { how, step: at } = await session.kill(victim);
  print(dim(`  ${victim.pod} on ${victim.node}: ${how}`));
  await session.steady(ranks.length, epoch);
  const begin = session.begins.find(({ world }) => world > epoch);
  if (begin === undefined) throw new Error("no pod tells of another world");
  if (begin.repeats > 1) throw new Error(`${begin.repeats} steps were made again, 1 at most is right`);
  return `rank 1 after step ${at}; the next world went on from step ${begin.step}, ${begin.repeats} steps made again`;
}

async function scale(demo: TrainingDemo): Promise<string> {
  const session = sessionOf(demo);
  const told: string[] = [];
  for (const replicas of [4, 2]) {
    const { epoch } = session.world;
    print(dim(`  kubectl scale moet/${job} --replicas=${replicas}`));
    session.watch.log.happened(`scaled to ${replicas}`);
    await session.kubectl.run(["scale", `moet/${job}`, `--replicas=${replicas}`]);
    await session.steady(replicas, epoch);
    const begin = session.begins.find(({ world }) => world > epoch);
    if (begin === undefined) throw new Error(`no pod tells of the world of ${replicas} ranks`);
    told.push(`${replicas} from step ${begin.step} on`);
    if (begin.repeats > 0) throw new Error(`${begin.repeats} steps were made again at the scale to ${replicas}`);
  }
  return `3 -> 4 -> 2 (${told.join(", ")}), no step made again`;
}

async function finish(demo: TrainingDemo): Promise<string> {
  const { watch, steps } = sessionOf(demo);
  const { log } = watch;
  const complete = (): true | undefined =>
    log.status.conditions?.some(({ type, status }) => type === "Complete" && status === "True") ? true : undefined;
  await watch.until("all steps to be done", complete, stepGiveUpMs);
  await watch.refresh();
  log.happened("complete");
  print(curveText(log.lines) ?? "");
  const last = log.lines.slice(-lastSteps);
  const loss = last.reduce((sum, line) => sum + line.loss, 0) / Math.max(1, last.length);
  if (!(loss <= lossMax)) throw new Error(`the loss of the last steps is ${loss.toFixed(2)}, it should be ${lossMax} or less`);
  return `${steps} steps, loss ${loss.toFixed(2)} (perplexity ${Math.exp(loss).toFixed(1)} of a byte)`;
}

const plotFile = (): string => join(folder(), "loss.svg");

async function unbroken(demo: TrainingDemo): Promise<string> {
  const { watch, steps, begins, killed } = sessionOf(demo);
  const { lines } = watch.log;
  const later = begins.filter(({ world }) => world > (begins[0]?.world ?? 0));
  const marks = [
    ...killed.map(({ rank, step }) => ({ step, what: `rank ${rank} killed` })),
    ...later.map(({ world, ranks, step }) => ({ step, what: `world ${world}: ${ranks} ranks` })),
  ];
  const drawn = lossPlot(
    job,
    lines,
    marks.toSorted((a, b) => a.step - b.step),
  );
  if (drawn !== undefined) writeFileSync(plotFile(), drawn);
  if (later.length < 3) throw new Error(`${later.length} changes of ranks were seen, a kill and two scales make 3`);
  const curve = examine(
    lines,
    steps,
    later.map(({ step }) => step),
  );
  const broken = breakOf(curve, killed.length);
  if (broken !== undefined) throw new Error(broken);
  const absent =
    curve.missing.length === 0 ? "each step once" : `each step once but ${curve.missing.join(", ")}, which no rank was left to write`;
  return `${absent}; largest rise at a change ${curve.rise.toFixed(3)}, elsewhere ${curve.riseElsewhere.toFixed(3)}`;
}

async function serveAndAsk(demo: TrainingDemo): Promise<string> {
  const { namespace, closers, signal } = demo;
  const { target, kubectl } = sessionOf(demo);
  print(dim(`  enodia train serve ${job} -n ${namespace} | kubectl apply -f -`));
  const command = ["--disable-warning=ExperimentalWarning", join(root, "operator/cli/main.ts"), "train", "serve", job];
  const manifest = await execOk(process.execPath, [...command, ...kubectl.flags], { signal });
  await kubectl.run(["apply", "-f", "-"], manifest);
  await waitReady(kubectl, job, stepGiveUpMs);
  const address = await serviceAddress(target, kubectl, { name: job, namespace });
  closers.push(address.close);
  demo.url = address.url;
  const onToken = (text: string): void => void process.stdout.write(cyan(text.replaceAll("\n", "\n  ")));
  let said = "";
  for (const prompt of prompts) {
    process.stdout.write(`  ${bold(prompt)}`);
    said += ` ${(await ask({ ...sampling, prompt, url: address.url, model: job, api: "text", onToken, signal })).text}`;
    print();
  }
  const { known, words } = knownWords(said, new Set(wordsOf(guideText())));
  if (!(known >= knownShare * words && words > 0)) throw new Error(`${known} of ${words} words are words of the guides`);
  return `${known} of ${words} words of its answers are words of the guides`;
}

function times({ session }: TrainingDemo, machine: Machine): Result[] {
  if (session === undefined || machine === "unknown") return [];
  const { pause, firstStepSeconds } = session.watch.log;
  const first = machine === "warm" && firstStepSeconds !== undefined ? [aimed("Apply to first step", firstStepSeconds, firstStepAim)] : [];
  if (pause.step === 0) return first;
  return [...first, aimed("Longest pause", pause.seconds, pauseAim, `${pauseAim} s; it was after step ${pause.step}`)];
}

function files({ session }: TrainingDemo): string[] {
  if (session === undefined) return [];
  return [
    `\n${bold("Look at")}`,
    `  ${plotFile()}    the loss, with what happened on the way`,
    `  ${metricsFile()}    every step`,
    `  ${join(runFolder(), "huggingface")}    the model for transformers; beside it store/, which was served`,
    `  npm run -s enodia -- model inspect ${join(runFolder(), "store")}`,
  ];
}

const next = ({ namespace, url }: TrainingDemo, cluster: Target): string[] =>
  nextLines({
    namespace,
    model: job,
    url,
    local: cluster.local?.name,
    kubectlFlags: kubectlOf(cluster, namespace).flags,
    request: { path: "/v1/completions", body: { model: job, prompt: "Training ", max_tokens: 200, temperature: 0.5 } },
    asked: [],
    more: [
      `npm run -s enodia -- train status ${job} -n ${namespace}`,
      `npm run -s enodia -- train loss ${job} -n ${namespace}`,
      `kubectl -n ${namespace} describe moet/${job}`,
    ],
  });

export const training: Show<TrainingDemo> = {
  about: "trains a small model on three ranks, kills one and scales 3 -> 4 -> 2 on the way, and serves the result",
  namespace: "training-demo",
  makesModel: () => false,
  steps: [
    ...firstSteps,
    { title: "Text, tokens and a model", needed: true, run: prepare },
    { title: "Train on three ranks", needed: true, run: start },
    { title: "Kill a rank", needed: false, run: killRank },
    { title: "Scale 3 -> 4 -> 2", needed: false, run: scale },
    { title: "To the last step", needed: true, run: finish },
    { title: "The curve is unbroken", needed: false, run: unbroken },
    { title: "Serve it and ask", needed: false, run: serveAndAsk },
  ],
  times,
  files,
  next,
};
