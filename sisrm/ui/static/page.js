() => {
  // Gradio's example pictures are buttons without a name: they get their file's.
  const name = () => {
    for (const button of document.querySelectorAll('#examples .gallery-item:not([aria-label])')) {
      const picture = button.querySelector('img');
      if (picture?.src) button.setAttribute('aria-label', decodeURIComponent(picture.src.split('/').pop()).replace(/\.\w+$/, ''));
    }
  };
  new MutationObserver(name).observe(document.body, { childList: true, subtree: true, attributes: true, attributeFilter: ['src'] });
  name();
  // Gradio sends both clicks of a double click, as the first one has not been sent when the second one comes.
  document.addEventListener('click', (event) => {
    if (event.detail > 1 && event.target.closest('#run, #sample, #compare, #semantics .again')) event.stopImmediatePropagation();
  }, { capture: true });
}
