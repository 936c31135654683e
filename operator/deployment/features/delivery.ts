// Downloads of the model and the weight server. After the source, whose model a weight server keeps; before the aim, which waits for the
// model. Pure.
import type { Pending } from "../core/delivery.ts";
import { planDelivery } from "../core/delivery.ts";
import { weightServerVerdict } from "../core/weight-server.ts";
import { ofModel, type WeightServerWish } from "../objects/context.ts";
import { downloadJob } from "../objects/download-job.ts";
import { modelPlace, modelText } from "../objects/model-place.ts";
import type { Observed } from "../observed.ts";
import { feature } from "./feature.ts";
import type { Delivery, DeliveryAction, Source } from "./results.ts";

const judgedMs = 1_000;
const judging: Pending = {
  reason: "WeightServerNotReady",
  message: "the weight server gets the model once the spec is known to be good",
  words: undefined,
};

export const delivery = feature({
  name: "delivery",
  needs: ["source"],
  run: (observed, { source }) => (observed.remoteStore ? withWeightServer(observed, source) : download(observed)),
});

function download({ deployment, settings, download: seen, memory, ticksMs, now }: Observed): Delivery {
  const { wanted, workInUse } = seen;
  const refused = memory.jobRefused?.name === wanted ? memory.jobRefused : undefined;
  const { suspend, model } = deployment.spec;
  const plan = planDelivery({ ...seen, suspended: suspend, jobError: refused?.message ?? "", now: now.getTime() });
  const running = seen.pods.find((pod) => pod.job === wanted && pod.ip !== undefined && pod.end === undefined);
  const waitMs = refused ? refused.untilMs - ticksMs : 0;
  const actions: DeliveryAction[] = plan.remove.map(({ name, uid }) => ({ type: "deleteJob", name, uid }));
  if (plan.create !== undefined && waitMs <= 0) {
    // The Secret comes before its pod: the kubelet notices a later one only after a minute or two.
    actions.push({ type: "certify", role: "downloader" });
    actions.push({ type: "createJob", name: plan.create, job: downloadJob({ deployment, settings }, plan.create, workInUse) });
  }
  if (plan.pending && running?.ip !== undefined) actions.push({ type: "ask", uid: running.uid, ip: running.ip });
  if (running === undefined && model.cache?.ephemeral === undefined) actions.push({ type: "stopAsking" });
  const waits = [plan.againInMs, waitMs > 0 ? waitMs : undefined].filter((ms) => ms !== undefined);
  return {
    ...{ pending: plan.pending, revision: plan.revision, away: "", weightServer: undefined, actions },
    againInMs: waits.length === 0 ? undefined : Math.min(...waits),
  };
}

function withWeightServer(observed: Observed, { keeps, serving }: Source): Delivery {
  const found = download(observed);
  const { suspend } = observed.deployment.spec;
  // A download and a weight server could need the claim on two nodes.
  const replicas: WeightServerWish["replicas"] = suspend || found.pending ? 0 : 1;
  if (found.pending) return { ...found, weightServer: { replicas, keeps } };
  const { verdict, actions } = weightServer(observed, { keeps, serving });
  const all = [...found.actions, ...actions];
  if (!keeps) return { ...found, ...verdict, weightServer: { replicas }, actions: all };
  // Problems of the old weight server do not block a spec without one.
  const kept = { ...found, away: verdict.away, weightServer: { replicas, keeps }, actions: all };
  return keeps.asks ? { ...kept, pending: judging, againInMs: judgedMs } : kept;
}

function weightServer({ deployment: of, weightServer: seen }: Observed, { keeps, serving }: Source) {
  const deployment = ofModel(of, keeps);
  const { spec } = deployment;
  const place = modelText(modelPlace(spec));
  const running = seen.pods.find((pod) => pod.running && !pod.ready && pod.ip !== undefined);
  const downloads = spec.model.cache?.ephemeral !== undefined;
  const pods = seen.pods.map((pod) => ({ ...pod, current: pod.model === place && !pod.terminating }));
  const verdict = weightServerVerdict({ downloads, suspended: spec.suspend, pods, words: downloads ? seen.words : undefined, serving });
  const asks = downloads && running?.ip !== undefined && !spec.suspend;
  const actions: DeliveryAction[] = [{ type: "certify", role: "weight-server" }];
  if (asks) actions.push({ type: "ask", uid: running.uid, ip: running.ip ?? "" });
  else if (downloads) actions.push({ type: "stopAsking" });
  return { verdict, actions };
}
