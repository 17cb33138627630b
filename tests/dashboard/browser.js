// Looks at a dashboard with a real browser, and takes pictures. For people, not for CI: it needs chromium, and
// playwright-core from npm.
//     python -m tests.dashboard.serve --machines 2 > link &    node tests/dashboard/browser.js "$(head -1 link)" FOLDER NAME
"use strict";
const { chromium } = require(process.env.PLAYWRIGHT || "playwright-core");
const [link, folder, name] = process.argv.slice(2);

function check(truth, text) { if (!truth) { console.error("WRONG: " + text); process.exitCode = 1; } else console.log("right: " + text); }

(async () => {
  const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
  const outside = [], errors = [];
  for (const colorScheme of ["light", "dark"]) {
    const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, colorScheme });
    page.on("request", request => { if (!request.url().startsWith(new URL(link).origin) && !request.url().startsWith("data:")) outside.push(request.url()); });
    page.on("pageerror", error => errors.push(String(error)));
    page.on("console", message => { if (message.type() === "error") errors.push(message.text()); });
    await page.goto(link);
    check(!page.url().includes("token"), "the token is not in the address bar");
    await page.waitForSelector(".cell.busy");
    for (const [key, id, ready] of [["1", "now", ".cell.busy"], ["2", "tasks", "#found tr[data-key]"], ["3", "time", "#legend span"], ["4", "data", "#blobs td"], ["5", "log", "#lines td"]]) {
      await page.keyboard.press(key);
      await page.waitForSelector(`#${id}:not([hidden]) ${ready}`);
      await page.waitForTimeout(1200);
      await page.screenshot({ path: `${folder}/${name}-${id}-${colorScheme}.png` });
    }
    await page.keyboard.press("/");
    await page.waitForSelector("#query:focus");
    await page.keyboard.type("script failed");
    await page.waitForFunction(() => document.querySelector("#count").textContent.includes("match"));
    await page.waitForTimeout(700);
    await page.fill("#query", "failed");
    await page.waitForFunction(() => [...document.querySelectorAll("#found td:nth-child(2)")].every(td => td.textContent === "failed"));
    await page.focus("#found tr[data-key]");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#story:not([hidden]) ol li");
    check((await page.textContent("#story")).includes("ValueError"), "a story is opened with the keyboard, and tells the error");
    await page.screenshot({ path: `${folder}/${name}-story-${colorScheme}.png` });
    await page.keyboard.press("Escape");
    check(await page.isHidden("#story"), "Escape closes it");
    await page.keyboard.press("3");
    await page.waitForSelector("#legend span");
    for (const key of ["+", "+", "+", "ArrowLeft"]) await page.keyboard.press(key);
    await page.waitForTimeout(300);
    await page.screenshot({ path: `${folder}/${name}-zoomed-${colorScheme}.png` });
    check(!(await page.textContent("#range")).startsWith("live"), "the arrows go back in time");
    check(!(await page.title()).includes("evil"), "no script of a name has run");
    check(await page.locator("main script, main img").count() === 0, "no markup of a name is in the page");
    if (colorScheme === "light") {
      const sizes = [];
      await page.keyboard.press("0");
      for (let i = 0; i < 3; i++) {
        await page.waitForTimeout(4000);
        sizes.push(await page.evaluate(() => [document.querySelectorAll("*").length, stream.store.count]));
      }
      console.log("elements and spans:", JSON.stringify(sizes));
      const took = await page.evaluate(() => { const began = performance.now(); for (let i = 0; i < 10; i++) draw(true); return (performance.now() - began) / 10; });
      console.log("a drawing of the time page takes " + took.toFixed(1) + " ms");
    }
    await page.close();
  }
  check(!outside.length, "nothing was asked of the internet: " + outside);
  check(!errors.length, "no error in the console: " + errors);
  await browser.close();
})().catch(error => { console.error(error); process.exitCode = 1; });
