"""matplotlib figures: each is shown once, as PNG, at plt.show() or at the end of its cell, and closed then.

No backend of our own: MPLBACKEND=agg, which subprocesses may inherit, draws, and what Agg does not know, to show a figure, is taught
to the base class of all figure managers. So matplotlib.use("Agg"), which much code calls, changes nothing.
"""

import io
import os
import sys

MAX_PIXELS = 2000  # of the longer side; a model does not use more

os.environ.setdefault("MPLBACKEND", "agg")

_publish = None  # publishes the bundle of a figure that is shown


def prepare(publish):
    global _publish
    _publish = publish


def on_import(backend_bases):
    """Called when matplotlib.backend_bases has been imported."""
    backend_bases.FigureManagerBase.show = lambda manager: show(manager.canvas.figure)


def show_all():
    """Shows what the cell drew and did not show or close itself."""
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
    """The PNG of figure. A figure that is shown as a value is not shown again at the end of the cell."""
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
