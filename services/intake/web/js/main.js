// The page: what stands where.

import { Component, html, render } from "../vendor/htm-preact.js";
import { listen, open, start, state, close } from "./store.js";
import { Frame, Guard, Notice, Trouble } from "./view/frame.js";
import { Alarms, Cost, Numbers, Prices } from "./view/cost.js";
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
    const parts = (all) => all.map((part) => html`<${Guard} key=${part.name}><${part} s=${s} /><//>`);
    return html`
      <${Frame} s=${s}>
        ${parts([Trouble, Alarms, Numbers])}
        <div class="columns">
          <div class="wide">${parts([Batches, Videos, Tasks])}</div>
          <div class="narrow">${parts([Pools, Queue, Cost, Prices])}</div>
        </div>
        ${s.dialog === "story" && parts([Story])}
        ${s.dialog === "submit" && parts([Submit])}
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
