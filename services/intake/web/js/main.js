// The page: what stands where.

import { html, render, Component } from "../vendor/htm-preact.js";
import { listen, open, start, state, close } from "./store.js";
import { Frame, Notice, Trouble } from "./view/frame.js";
import { Alarms, Numbers } from "./view/cost.js";
import { Cost, Prices } from "./view/cost.js";
import { Pools } from "./view/pools.js";
import { Batches } from "./view/batches.js";
import { Queue } from "./view/queue.js";
import { Tasks } from "./view/tasks.js";
import { Videos } from "./view/videos.js";
import { Story } from "./view/story.js";
import { Submit } from "./view/submit.js";
import { Key } from "./view/key.js";

class Page extends Component {
  componentDidMount() {
    this.unlisten = listen(() => this.setState({}));
  }

  componentWillUnmount() {
    this.unlisten();
  }

  render() {
    const s = state;
    if (s.needsKey) return html`<${Frame} s=${s}><${Key} /><//>`;
    return html`
      <${Frame} s=${s}>
        <${Trouble} s=${s} />
        <${Alarms} s=${s} />
        <${Numbers} s=${s} />
        <div class="columns">
          <div class="wide">
            <${Batches} s=${s} />
            <${Videos} s=${s} />
            <${Tasks} s=${s} />
          </div>
          <div class="narrow">
            <${Pools} s=${s} />
            <${Queue} s=${s} />
            <${Cost} s=${s} />
            <${Prices} s=${s} />
          </div>
        </div>
        ${s.dialog === "story" && html`<${Story} s=${s} />`}
        ${s.dialog === "submit" && html`<${Submit} s=${s} />`}
        <${Notice} s=${s} />
      <//>`;
  }
}

render(html`<${Page} />`, document.getElementById("page"));
start();

/** A task has an address: #task=ID. */
function named() {
  const id = /^#task=([A-Za-z0-9_-]{1,64})$/.exec(location.hash)?.[1];
  if (id) open(id);
  else if (state.dialog === "story") close();
}
addEventListener("hashchange", named);
named();
