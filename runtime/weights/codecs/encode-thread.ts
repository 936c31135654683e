// Entry point of a thread that encodes and hashes units, one after another.
import { parentPort } from "node:worker_threads";
import { AppError } from "../../../crds/common.ts";
import { encodeUnits, type FromUnitThread, type UnitOrder } from "./encode.ts";

const say = (message: FromUnitThread, memory: readonly ArrayBufferLike[]): void =>
  parentPort?.postMessage(message, memory as readonly ArrayBuffer[]);

parentPort?.on("message", (order: UnitOrder) => {
  try {
    const units = encodeUnits(order);
    say(
      { units },
      units.map(({ bytes }) => bytes.buffer),
    );
  } catch (caught) {
    const { code, message } = AppError.from(caught, "encoding an expert");
    say({ error: { code, message } }, []);
  }
});
