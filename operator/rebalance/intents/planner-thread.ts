// Policies run on one worker thread, so that a large model does not block the reconcile loop or the lease. This file is both ends of
// the thread.
import { isMainThread, parentPort, Worker } from "node:worker_threads";
import { AppError } from "../../../crds/common.ts";
import { type PolicyName, policyNames } from "../../../crds/names.ts";
import { makePlan, policies } from "../../planner/index.ts";
import type { PlanInput, PlanOutput } from "../../planner/policy.ts";

export interface Planner {
  /** Makes a plan. Rejects with `PlanAbandoned` when `signal` aborts. */
  plan(policy: PolicyName, input: PlanInput, signal?: AbortSignal): Promise<PlanOutput>;
  close(): Promise<void>;
}

const planTimeoutMs = 60_000;
/** Each deployment queues at most one plan. */
const waitingMax = 10_000;

interface Request {
  readonly id: number;
  readonly policy: PolicyName;
  readonly input: PlanInput;
}
type Reply =
  | { readonly id: number; readonly output: PlanOutput }
  | { readonly id: number; readonly code: string; readonly message: string };

export const inlinePlanner: Planner = { plan: runPolicy, close: async () => {} };

async function runPolicy(policy: PolicyName, input: PlanInput): Promise<PlanOutput> {
  const chosen = policies[policy];
  if (!chosen)
    throw new AppError(`policy ${policy} is unknown; known are ${policyNames.join(", ")}`, {
      code: "UnknownPolicy",
      operation: "planning",
    });
  return makePlan(chosen, input);
}

export function threadPlanner(): Planner {
  return new PlannerThread();
}

interface Waiting {
  readonly request: Request;
  readonly resolve: (output: PlanOutput) => void;
  readonly reject: (error: AppError) => void;
}

class PlannerThread implements Planner {
  #worker: Worker | undefined;
  readonly #queue: Waiting[] = [];
  #current: Waiting | undefined;
  #timer: NodeJS.Timeout | undefined;
  #nextId = 1;
  #closed = false;

  plan(policy: PolicyName, input: PlanInput, signal?: AbortSignal): Promise<PlanOutput> {
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
      const waiting: Waiting = { request: { id: this.#nextId++, policy, input }, resolve, reject };
      signal?.addEventListener("abort", () => this.#abandon(waiting), { once: true });
      this.#queue.push(waiting);
      this.#next();
    });
  }

  #next(): void {
    if (this.#current || this.#queue.length === 0) return;
    this.#current = this.#queue.shift();
    this.#timer = setTimeout(() => this.#fail(`no plan within ${planTimeoutMs} ms`), planTimeoutMs);
    this.#thread().postMessage(this.#current?.request);
  }

  #thread(): Worker {
    if (this.#worker) return this.#worker;
    const worker = new Worker(new URL(import.meta.url), { name: "planner" });
    worker.unref();
    worker.on("message", (reply: Reply) => this.#answer(reply));
    worker.on("error", (error) => this.#fail(`the planner thread failed: ${error instanceof Error ? error.message : String(error)}`));
    this.#worker = worker;
    return worker;
  }

  #answer(reply: Reply): void {
    const current = this.#current;
    if (!current || current.request.id !== reply.id) return;
    this.#done();
    if ("output" in reply) current.resolve(reply.output);
    else current.reject(new AppError(reply.message, { code: reply.code, operation: "planning" }));
    this.#next();
  }

  /** Ends the thread if it makes this plan, else removes the plan from the queue. */
  #abandon(waiting: Waiting): void {
    const message = "the plan was abandoned";
    const at = this.#queue.indexOf(waiting);
    if (this.#current === waiting) this.#fail(message, "PlanAbandoned");
    if (at < 0) return;
    this.#queue.splice(at, 1);
    waiting.reject(new AppError(message, { code: "PlanAbandoned", operation: "planning" }));
  }

  #fail(message: string, code = "PlannerFailed"): void {
    const current = this.#current;
    const worker = this.#worker;
    this.#worker = undefined;
    void worker?.terminate();
    this.#done();
    current?.reject(new AppError(message, { code, operation: "planning", retry: "backoff" }));
    this.#next();
  }

  #done(): void {
    clearTimeout(this.#timer);
    this.#current = undefined;
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    const error = new AppError("the planner is closing", { code: "PlannerBusy", operation: "planning" });
    for (const waiting of [...(this.#current ? [this.#current] : []), ...this.#queue.splice(0)]) waiting.reject(error);
    await this.#worker?.terminate();
  }
}

if (!isMainThread && parentPort) {
  const port = parentPort;
  port.on("message", (request: Request) => {
    runPolicy(request.policy, request.input).then(
      (output) => port.postMessage({ id: request.id, output }),
      (caught) => {
        const { code, message } = AppError.from(caught, "planning");
        port.postMessage({ id: request.id, code, message });
      },
    );
  });
}
