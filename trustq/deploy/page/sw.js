// Keeps the page, the model and its runtime, so that all of it works without a network. A photo is
// never a request where the model runs in the page; what goes to /api/ is never kept.
const KEPT = "trustq-@VERSION@";
const FILES = @FILES@;

self.addEventListener("install", (event) => {
  event.waitUntil((async () => {
    const cache = await caches.open(KEPT);
    await cache.addAll(FILES.map((file) => new Request(file, { cache: "reload" })));
    await self.skipWaiting();
  })());
});

self.addEventListener("activate", (event) => {
  event.waitUntil((async () => {
    const names = await caches.keys();
    const old = names.filter((name) => name.startsWith("trustq-") && name !== KEPT);
    await Promise.all(old.map((name) => caches.delete(name)));
    await self.clients.claim();
  })());
});

self.addEventListener("fetch", (event) => {
  const address = new URL(event.request.url);
  if (event.request.method !== "GET" || address.origin !== location.origin) return;
  if (!FILES.includes(address.pathname)) return;
  event.respondWith((async () => {
    const cache = await caches.open(KEPT);
    return (await cache.match(address.pathname)) || fetch(event.request);
  })());
});
