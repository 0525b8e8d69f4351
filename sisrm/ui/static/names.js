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
}
