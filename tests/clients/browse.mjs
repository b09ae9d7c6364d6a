// Drives a page in headless Chromium and prints one JSON object: what the scenario returned and what the page
// logged. The only argument is a JSON object:
//
//   chromium, page   the browser's path and the page's URL
//   scenario         the name of one of the functions below
//
// and what that function takes.
import { chromium } from 'playwright-core'

const TUS = { 'Tus-Resumable': '1.0.0' }

async function fetchInPage({ url, ...init }) {
  try {
    const answer = await fetch(url, init)
    return { status: answer.status, headers: Object.fromEntries(answer.headers), body: await answer.text() }
  } catch (error) {
    return { error: String(error) }
  }
}

const scenarios = {
  // What a script of the page sees of each answer: all of it, or only that the browser keeps it back.
  async fetch({ page }, { requests }) {
    return { answers: await Promise.all(requests.map((request) => page.evaluate(fetchInPage, request))) }
  },

  // Uploads a file with Uppy, which is paused and resumed, and later loses the network and gets it back.
  async upload({ page, context }, { file, size, bytesPerSecond }) {
    const created = []
    page.on('request', (request) => request.method() === 'POST' && created.push(request.url()))
    const network = await context.newCDPSession(page)
    await network.send('Network.enable')
    const setOffline = (offline) =>
      network.send('Network.emulateNetworkConditions', {
        offline,
        latency: 0,
        downloadThroughput: -1,
        uploadThroughput: bytesPerSecond,
      })
    await setOffline(false)
    const sent = (bytes) =>
      page.waitForFunction((bytes) => uppy.getFiles()[0].progress.bytesUploaded > bytes, bytes)
    const head = (url) => page.evaluate(fetchInPage, { url, method: 'HEAD', headers: TUS })

    await page.setInputFiles('input', file)
    await page.evaluate(() => {
      window.result = uppy.upload()
    })
    await sent(size / 5)
    await page.evaluate(() => uppy.pauseAll())
    const url = await page.evaluate(() => uppy.getFiles()[0].tus.uploadUrl)
    const paused = await head(url)

    await page.evaluate(() => uppy.resumeAll())
    await sent(size / 2)
    const noticed = page.evaluate(() => new Promise((resolve) => uppy.once('is-offline', () => resolve(true))))
    const broken = page.waitForEvent('requestfailed')
    await setOffline(true)
    const offline = { noticed: await noticed, broken: (await broken).method(), head: await head(url) }
    const outside = await fetch(url, { method: 'HEAD', headers: TUS }) // by Node, which is still online
    offline.offset = outside.headers.get('Upload-Offset')

    await setOffline(false)
    const { successful, failed } = await page.evaluate(async () => {
      const { successful, failed } = await window.result
      return { successful: successful.map((file) => file.uploadURL), failed: failed.map((file) => file.error) }
    })
    return { created, url, paused, offline, successful, failed, head: await head(url) }
  },
}

const { chromium: executablePath, page: address, scenario, ...options } = JSON.parse(process.argv[2])

const browser = await chromium.launch({
  executablePath,
  args: [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
  ],
})
try {
  const context = await browser.newContext()
  const page = await context.newPage()
  const log = []
  page.on('console', (message) => log.push(message.text()))
  page.on('pageerror', (error) => log.push(String(error)))
  await page.goto(address)
  const result = await scenarios[scenario]({ page, context }, options)
  process.stdout.write(`${JSON.stringify({ ...result, log })}\n`)
} finally {
  await browser.close()
}
