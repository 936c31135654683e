// A link to a server on loopback that a test can break: silent as a stopped process or a cut cable, or gone as a killed process.
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

type State = "up" | "silent" | "gone";

export class Link {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #state: State = "up";
  /** Bytes that came, of both ends. */
  bytes = 0;

  private constructor(port: () => number) {
    this.#server = createServer((near) => this.#join(near, port()));
  }

  /** `port` is asked for each connection: a server may come back on another one. */
  static async open(port: () => number): Promise<Link> {
    const link = new Link(port);
    await new Promise<void>((resolve) => void link.#server.listen(0, "127.0.0.1", resolve));
    return link;
  }

  get address(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Swallows every byte from now on; connections are taken, and nothing is said on them. */
  silence(): void {
    this.#state = "silent";
  }

  /** Resets every connection, and those that come. */
  kill(): void {
    this.#state = "gone";
    this.#drop();
  }

  /** New connections pass. Old ones are reset, as TCP has given up what it could not send, or will not try again for long. */
  heal(): void {
    this.#state = "up";
    this.#drop();
  }

  close(): void {
    this.#drop();
    this.#server.close();
  }

  #join(near: Socket, port: number): void {
    if (this.#state === "gone") return void near.resetAndDestroy();
    const far = connect(port, "127.0.0.1");
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      this.#sockets.add(from);
      from.on("data", (bytes) => {
        this.bytes += bytes.byteLength;
        if (this.#state === "up") to.write(bytes);
      });
      from.on("error", () => {});
      from.on("close", () => {
        this.#sockets.delete(from);
        if (this.#state !== "silent") to.destroy();
      });
    }
  }

  #drop(): void {
    for (const socket of this.#sockets) socket.destroy();
  }
}
