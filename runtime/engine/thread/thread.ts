// Entry of the engine thread: opens the model, runs the loop, and reports a failure to the main thread.
import { type MessagePort, workerData } from "node:worker_threads";
import { EngineLoop } from "./loop.ts";
import { type FromEngine, type ThreadOptions, toPlain } from "./messages.ts";
import { openModel } from "./open.ts";

const { port, options } = workerData as { port: MessagePort; options: ThreadOptions };
try {
  const model = await openModel(options);
  const loop = new EngineLoop(port, model, options);
  port.postMessage({ type: "ready", info: model.info } satisfies FromEngine);
  await loop.run();
} catch (caught) {
  port.postMessage({ type: "refused", error: toPlain(caught) } satisfies FromEngine);
  port.close();
}
