"""Runs in the image and checks that every package can be imported and that common tasks work."""

import importlib
import io
import sys

MODULES = """
IPython PIL.Image bottleneck bs4 chardet cryptography dateutil defusedxml docx duckdb fpdf gmpy2 h5py html5lib imageio
jinja2 jsonschema lightgbm lxml.etree markdown matplotlib.pyplot matplotlib_inline.backend_inline mplfinance narwhals
networkx numexpr numpy odf openpyxl pandas pdfminer.high_level pdfplumber pip plotly.express polars pptx psutil pyarrow.dataset
pyarrow.parquet pypdf pypdfium2 pyreadstat pytest python_calamine pytz qrcode regex reportlab.pdfgen.canvas requests
scipy.optimize scipy.signal scipy.stats seaborn shapely six skimage.filters skimage.io sklearn.cluster sklearn.ensemble
sklearn.linear_model sqlalchemy squarify statsmodels.api statsmodels.formula.api striprtf.striprtf sympy tables tabulate
toolz tqdm venv wordcloud xarray xgboost xlrd xlsxwriter yaml zstandard
""".split()

# The image lacks these modules if the wheels were left out.
FROM_PYPI = {
    "duckdb", "fpdf", "lightgbm", "mplfinance", "narwhals", "pdfminer.high_level", "pdfplumber", "plotly.express", "polars", "pptx",
    "pyarrow.dataset", "pyarrow.parquet", "pypdfium2", "pyreadstat", "python_calamine", "reportlab.pdfgen.canvas",
    "squarify", "striprtf.striprtf",
}


def main() -> None:
    whole = sys.argv[1] == "whole"
    failed = []
    for name in MODULES:
        if not whole and name in FROM_PYPI:
            continue
        try:
            importlib.import_module(name)
        except Exception as e:  # any exception is a failure, which the message below reports
            failed.append(f"{name}: {e!r}")
    if failed:
        sys.exit("cannot import " + "; ".join(failed))

    import matplotlib.pyplot as plt
    import pandas as pd

    frame = pd.DataFrame({"city": ["Łódź", "東京"], "value": [1.5, 2.5]})
    books = [("openpyxl", "openpyxl")]
    if whole:
        books.append(("xlsxwriter", "calamine"))
    for writer, reader in books:
        book = io.BytesIO()
        frame.to_excel(book, index=False, engine=writer)
        assert pd.read_excel(book, engine=reader).equals(frame), reader
    frame.plot.bar(x="city", y="value", title="中文 한국어 ☃")
    plt.savefig(io.BytesIO(), format="png")

    if whole:
        import duckdb
        import polars
        from reportlab.pdfgen.canvas import Canvas
        import pdfplumber

        file = io.BytesIO()
        frame.to_parquet(file)
        assert pd.read_parquet(file).equals(frame)
        assert polars.from_pandas(frame)["value"].sum() == 4.0
        assert duckdb.sql("select sum(value) from frame").fetchone() == (4.0,)
        file = io.BytesIO()
        canvas = Canvas(file)
        canvas.drawString(100, 700, "a page")
        canvas.save()
        assert "a page" in pdfplumber.open(file).pages[0].extract_text()
    print(len(MODULES), "modules")


main()
