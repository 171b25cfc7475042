"""Shows matplotlib figures. Each is shown once, as PNG, at plt.show() or at the end of its cell, and is then closed.

The kernel has no matplotlib backend of its own. It sets MPLBACKEND=agg, which subprocesses may inherit. Agg draws figures
but has no way to show them, so the kernel adds show() to the base class of all figure managers. So matplotlib.use("Agg"),
which much code calls, changes nothing.
"""

import io
import os
import sys

MAX_PIXELS = 2000  # of the longer side; models do not use larger images

os.environ.setdefault("MPLBACKEND", "agg")

_publish = None  # publishes the bundle of a figure that is shown


def prepare(publish):
    global _publish
    _publish = publish


def on_import(backend_bases):
    """Adds show() to all figure managers. imports.Hooks calls it once matplotlib.backend_bases has been imported."""
    backend_bases.FigureManagerBase.show = lambda manager: show(manager.canvas.figure)


def show_all():
    """Shows the figures that the cell drew but neither showed nor closed."""
    pylab_helpers = sys.modules.get("matplotlib._pylab_helpers")
    if pylab_helpers:
        for manager in pylab_helpers.Gcf.get_all_fig_managers():
            show(manager.canvas.figure)


def close_all():
    pylab_helpers = sys.modules.get("matplotlib._pylab_helpers")
    if pylab_helpers:
        pylab_helpers.Gcf.destroy_all()


def show(figure):
    try:
        if len(figure.get_children()) > 1:  # plt.show() leaves figures behind that contain only their background
            _publish({"text/plain": str(figure), "image/png": png(figure)})
    finally:
        _close(figure)


def is_figure(value):
    module = sys.modules.get("matplotlib.figure")
    return module is not None and isinstance(value, module.Figure)


def png(figure):
    """Returns figure as PNG and closes it, so that a figure shown as a value is not shown again at the end of the cell."""
    longer = max(figure.get_size_inches())
    image = io.BytesIO()
    try:
        figure.savefig(
            image, format="png", bbox_inches="tight", facecolor=figure.get_facecolor(),
            dpi=min(figure.dpi, MAX_PIXELS / longer),
        )
    finally:
        _close(figure)
    return image.getvalue()


def _close(figure):
    pylab_helpers = sys.modules.get("matplotlib._pylab_helpers")
    if pylab_helpers:
        pylab_helpers.Gcf.destroy_fig(figure)
