"""The function-call example of Hermes 3's model card: fundamentals of a stock, by yfinance or recorded.

    python examples/stock.py "Fetch the stock fundamentals data for Tesla (TSLA)"
    python examples/stock.py --offline --model smol

    hermes3 call --tools examples/stock.py "Fetch the stock fundamentals data for Tesla (TSLA)"
    HERMES3_EXAMPLE_OFFLINE=1 hermes3 call --tools examples/stock.py "..."

Offline the card's own numbers for TSLA stand in (examples/stock.json). Online it needs yfinance, which
hermes3 does not bring along: pip install yfinance
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

OFFLINE = "HERMES3_EXAMPLE_OFFLINE"
RECORDED = Path(__file__).with_name("stock.json")
FIELDS = {  # of the answer -> of yfinance
    "company_name": "longName",
    "sector": "sector",
    "industry": "industry",
    "market_cap": "marketCap",
    "pe_ratio": "forwardPE",
    "pb_ratio": "priceToBook",
    "dividend_yield": "dividendYield",
    "eps": "trailingEps",
    "beta": "beta",
    "52_week_high": "fiftyTwoWeekHigh",
    "52_week_low": "fiftyTwoWeekLow",
}


def get_stock_fundamentals(symbol: str) -> dict:
    """
    Get fundamental data for a given stock symbol using yfinance API.

    Args:
        symbol (str): The stock symbol.

    Returns:
        dict: A dictionary containing fundamental data.
            Keys:
                - 'symbol': The stock symbol.
                - 'company_name': The long name of the company.
                - 'sector': The sector to which the company belongs.
                - 'industry': The industry to which the company belongs.
                - 'market_cap': The market capitalization of the company.
                - 'pe_ratio': The forward price-to-earnings ratio.
                - 'pb_ratio': The price-to-book ratio.
                - 'dividend_yield': The dividend yield.
                - 'eps': The trailing earnings per share.
                - 'beta': The beta value of the stock.
                - '52_week_high': The 52-week high price of the stock.
                - '52_week_low': The 52-week low price of the stock.
    """
    if os.environ.get(OFFLINE):
        return _recorded(symbol)
    info = _yfinance().Ticker(symbol).info
    return {"symbol": symbol, **{ours: info.get(theirs) for ours, theirs in FIELDS.items()}}


def _recorded(symbol: str) -> dict:
    known = json.loads(RECORDED.read_text())
    if symbol not in known:
        raise LookupError(f"nothing is recorded of {symbol}; there is: {', '.join(known)}")
    return known[symbol]


def _yfinance():
    try:
        import yfinance
    except ImportError as error:
        offline = f"or run it on recorded data (--offline, or {OFFLINE}=1)"
        raise ImportError(f"this example needs yfinance: pip install yfinance; {offline}") from error
    return yfinance


def _main() -> None:
    shown_as_is = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shown_as_is)
    parser.add_argument("question", nargs="?", default="Fetch the stock fundamentals data for Tesla (TSLA)")
    parser.add_argument("--model", help="smol, 3b, 8b, a path or hf:owner/repo; default: the best one here")
    parser.add_argument("--offline", action="store_true", help="the card's numbers instead of the network's")
    given = parser.parse_args()
    if given.offline:
        os.environ[OFFLINE] = "1"
    if not os.environ.get(OFFLINE):
        try:
            _yfinance()
        except ImportError as error:
            sys.exit(str(error))

    from hermes3 import LLM, Agent
    from hermes3.agent import Calling, Outcome, Result

    with LLM(given.model) as llm:
        for event in Agent(llm, [get_stock_fundamentals]).start(given.question):
            match event:
                case Calling(_, call):
                    print(f"-> {call.name}({dict(call.arguments)})", file=sys.stderr)
                case Result():
                    print(f"<- {event.content}", file=sys.stderr)
                case Outcome():
                    print(event.text)


if __name__ == "__main__":
    _main()
