// Plans are made on worker threads, so that a large model blocks neither the reconcile loop nor the lease, and one tenant's plans no
// other's. This file is both ends of a thread.
import { isMainThread, parentPort, Worker } from "node:worker_threads";
import { AppError } from "../../../crds/common.ts";
import { type PolicyName, policyNames } from "../../../crds/names.ts";
import { makePlan, planNear, policies, schedulable } from "../../planner/index.ts";
import { planIncremental } from "../../planner/policies/incremental.ts";
import type { PlanInput, PlanOutput } from "../../planner/policy.ts";
import { firstPlan } from "../../planner/repair.ts";

/** A policy of a spec, the first plan, one for new ranks, or one for rows that leave their rank. */
export type Planning = PolicyName | "first" | "fill" | "near";

export interface PlanOptions {
  readonly signal?: AbortSignal;
  /** The namespace, whose plans take turns. */
  readonly owner?: string;
}

export interface Planner {
  /** Makes a plan. Rejects with `PlanAbandoned` when `signal` aborts. */
  plan(planning: Planning, input: PlanInput, options?: PlanOptions): Promise<PlanOutput>;
  close(): Promise<void>;
}

const planTimeoutMs = 60_000;
/** Each deployment queues at most one plan. */
const waitingMax = 10_000;
/** One for an owner, whose plans take turns. One thread stays when there is nothing to plan. */
const threadsMax = 2;
/** A quarter of the chart's limit for the operator. */
const planHeapMiBMax = 256;

interface Request {
  readonly id: number;
  readonly planning: Planning;
  readonly input: PlanInput;
}
type Reply =
  | { readonly id: number; readonly output: PlanOutput }
  | { readonly id: number; readonly code: string; readonly message: string };

export const inlinePlanner: Planner = { plan: (planning, input) => runPlanning(planning, input), close: async () => {} };

async function runPlanning(planning: Planning, input: PlanInput): Promise<PlanOutput> {
  if (planning === "first") return { layers: firstPlan(input), reason: "first plan" };
  if (planning === "fill") {
    const { recent: _, noise: __, ...clean } = input;
    return { layers: schedulable(input, planIncremental(clean).layers), reason: "new ranks take their part" };
  }
  if (planning === "near") return planNear(input);
  const chosen = policies[planning];
  if (!chosen)
    throw new AppError(`policy ${planning} is unknown; known are ${policyNames.join(", ")}`, {
      code: "UnknownPolicy",
      operation: "planning",
    });
  return makePlan(chosen, input);
}

export function threadPlanner(): Planner {
  return new PlannerThreads();
}

interface Waiting {
  readonly request: Request;
  readonly owner: string;
  readonly resolve: (output: PlanOutput) => void;
  readonly reject: (error: AppError) => void;
}

interface Running extends Waiting {
  readonly worker: Worker;
  readonly timer: NodeJS.Timeout;
}

class PlannerThreads implements Planner {
  readonly #queue: Waiting[] = [];
  readonly #running = new Map<number, Running>();
  readonly #idle: Worker[] = [];
  #nextId = 1;
  #closed = false;

  plan(planning: Planning, input: PlanInput, { signal, owner = "" }: PlanOptions = {}): Promise<PlanOutput> {
    if (this.#closed || this.#queue.length >= waitingMax) {
      return Promise.reject(
        new AppError("the planner is closed or has too many plans waiting", {
          code: "PlannerBusy",
          operation: "planning",
          retry: "backoff",
        }),
      );
    }
    return new Promise((resolve, reject) => {
      const waiting: Waiting = { request: { id: this.#nextId++, planning, input }, owner, resolve, reject };
      signal?.addEventListener("abort", () => this.#abandon(waiting), { once: true });
      this.#queue.push(waiting);
      this.#next();
    });
  }

  /** Starts the first plan that waits and whose owner has no thread. */
  #next(): void {
    while (this.#running.size < threadsMax) {
      const busy = new Set([...this.#running.values()].map(({ owner }) => owner));
      const at = this.#queue.findIndex(({ owner }) => !busy.has(owner));
      const [waiting] = at < 0 ? [] : this.#queue.splice(at, 1);
      if (!waiting) return;
      const { id } = waiting.request;
      const worker = this.#idle.pop() ?? this.#thread();
      const timer = setTimeout(() => this.#fail(id, `no plan within ${planTimeoutMs} ms`), planTimeoutMs);
      this.#running.set(id, { ...waiting, worker, timer });
      worker.postMessage(waiting.request);
    }
  }

  #thread(): Worker {
    const worker = new Worker(new URL(import.meta.url), { name: "planner", resourceLimits: { maxOldGenerationSizeMb: planHeapMiBMax } });
    worker.unref();
    worker.on("message", (reply: Reply) => this.#answer(reply));
    worker.on("error", (error) => this.#lost(worker, error instanceof Error ? error.message : String(error)));
    return worker;
  }

  #answer(reply: Reply): void {
    const done = this.#take(reply.id);
    if (!done) return;
    if (this.#idle.length > 0) void done.worker.terminate();
    else this.#idle.push(done.worker);
    if ("output" in reply) done.resolve(reply.output);
    else done.reject(new AppError(reply.message, { code: reply.code, operation: "planning" }));
    this.#next();
  }

  #lost(worker: Worker, message: string): void {
    const at = this.#idle.indexOf(worker);
    if (at >= 0) this.#idle.splice(at, 1);
    for (const [id, running] of this.#running) if (running.worker === worker) this.#fail(id, `the planner thread failed: ${message}`);
  }

  /** Ends the thread if it makes this plan, else removes the plan from the queue. */
  #abandon(waiting: Waiting): void {
    const message = "the plan was abandoned";
    const at = this.#queue.indexOf(waiting);
    this.#fail(waiting.request.id, message, "PlanAbandoned");
    if (at < 0) return;
    this.#queue.splice(at, 1);
    waiting.reject(new AppError(message, { code: "PlanAbandoned", operation: "planning" }));
  }

  #fail(id: number, message: string, code = "PlannerFailed"): void {
    const failed = this.#take(id);
    if (!failed) return;
    void failed.worker.terminate();
    failed.reject(new AppError(message, { code, operation: "planning", retry: "backoff" }));
    this.#next();
  }

  #take(id: number): Running | undefined {
    const running = this.#running.get(id);
    clearTimeout(running?.timer);
    this.#running.delete(id);
    return running;
  }

  async close(): Promise<void> {
    this.#closed = true;
    const error = new AppError("the planner is closing", { code: "PlannerBusy", operation: "planning" });
    const running = [...this.#running.keys()].flatMap((id) => this.#take(id) ?? []);
    for (const waiting of [...running, ...this.#queue.splice(0)]) waiting.reject(error);
    await Promise.all([...this.#idle.splice(0), ...running.map(({ worker }) => worker)].map((worker) => worker.terminate()));
  }
}

if (!isMainThread && parentPort) {
  const port = parentPort;
  port.on("message", (request: Request) => {
    runPlanning(request.planning, request.input).then(
      (output) => port.postMessage({ id: request.id, output }),
      (caught) => {
        const { code, message } = AppError.from(caught, "planning");
        port.postMessage({ id: request.id, code, message });
      },
    );
  });
}
