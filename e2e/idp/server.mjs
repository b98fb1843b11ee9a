// A real identity provider on loopback, for tests. Its own development pages take any login name with any password.
//
//   node server.mjs PORT REDIRECT_URI SECRET ACCOUNTS
//
// ACCOUNTS are the claims of each login name, as JSON. Prints a line when it listens.
import Provider from "oidc-provider";

const [port, redirect, secret, accounts] = process.argv.slice(2);
const claims = JSON.parse(accounts);
const provider = new Provider(`http://localhost:${port}`, {
  clients: [{
    client_id: "faultline",
    client_secret: secret,
    redirect_uris: [redirect],
    post_logout_redirect_uris: [new URL("/sign-in", redirect).href],
  }],
  claims: {
    openid: ["sub"],
    email: ["email", "email_verified"],
    profile: ["name", "groups"],
  },
  cookies: { keys: [secret] },
  findAccount: (_, sub) => ({ accountId: sub, claims: async () => ({ sub, ...claims[sub] }) }),
});
// The pages import a font from the internet, which the tests don't have.
provider.use(async (ctx, next) => {
  await next();
  if (typeof ctx.body === "string") ctx.body = ctx.body.replace(/@import[^;]*;/, "");
});
provider.listen(Number(port), "localhost", () => console.log("ready"));
