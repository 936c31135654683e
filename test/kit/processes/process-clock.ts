// The clock of a Node process as it reads it, set wrong from outside: by the inspector, which Node opens when it is sent SIGUSR1, on the
// loopback of the network namespace that the process is in.
import { execOk } from "./process.ts";

const inspectorPort = 9229;
const openWithinMs = 5_000;

/** Runs in the namespace of the process: evaluates the expression there. */
const evaluate = `
const [port, expression, withinMs] = process.argv.slice(1);
const end = Date.now() + Number(withinMs);
async function target() {
  for (;;) {
    try {
      const [one] = await (await fetch("http://127.0.0.1:" + port + "/json/list")).json();
      return one.webSocketDebuggerUrl;
    } catch (error) {
      if (Date.now() > end) throw error;
      await new Promise((done) => setTimeout(done, 50));
    }
  }
}
const socket = new WebSocket(await target());
socket.onopen = () => socket.send(JSON.stringify({ id: 1, method: "Runtime.evaluate", params: { expression } }));
socket.onerror = () => process.exit(3);
socket.onmessage = ({ data }) => {
  const { id, result } = JSON.parse(data);
  if (id !== 1) return;
  if (result.exceptionDetails) process.stderr.write(JSON.stringify(result.exceptionDetails));
  process.stdout.write(String(result.result.value));
  process.exit(result.exceptionDetails ? 4 : 0);
};
`;

/** All that reads the date of the process: of now, and of no arguments. */
const shift = (offsetMs: number): string => `(() => {
  const Real = globalThis.realDate ?? Date;
  globalThis.realDate = Real;
  const now = () => Real.now() + ${offsetMs};
  globalThis.Date = ${offsetMs} === 0 ? Real : new Proxy(Real, {
    construct: (target, args, self) => Reflect.construct(target, args.length === 0 ? [now()] : args, self === globalThis.Date ? target : self),
    get: (target, field) => (field === "now" ? now : target[field]),
  });
  return Date.now() - Real.now();
})()`;

/** Sets the clock of a process wrong by so much, and right with 0. */
export async function setClock(pid: number, offsetMs: number): Promise<void> {
  process.kill(pid, "SIGUSR1");
  const args = ["-t", String(pid), "-n", process.execPath, "--input-type=module", "-e", evaluate, "--"];
  const said = await execOk("nsenter", [...args, String(inspectorPort), shift(offsetMs), String(openWithinMs)]);
  if (Math.abs(Number(said) - offsetMs) > 1) throw new Error(`the clock of process ${pid} is wrong by ${said} ms instead of ${offsetMs}`);
}
