// A port for a program that has to be told one, and cannot say which it took.
import { createServer } from "node:net";

/** A port that nobody has on any address at the moment. */
export async function freePort(): Promise<number> {
  const probe = createServer().listen(0);
  await new Promise((resolve) => probe.once("listening", resolve));
  const { port } = probe.address() as { readonly port: number };
  await new Promise((resolve) => probe.close(resolve));
  return port;
}
