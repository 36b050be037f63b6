// BERT's WordPiece tokenizer; gives the ids that wordpiece.py gives.
//
// Classes of characters are those of the browser's Unicode version. They differ from Python's only
// for characters that one of the two does not know yet.

const MAX_WORD_LENGTH = 100;
// Python's white space, which is not that of \s.
const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const SPACES = new RegExp(`[${SPACE}]+`, "u");
const DROPPED = new RegExp(`(?![${SPACE}])[\\p{C}\\ufffd]`, "gu");
// Punctuation, ASCII symbols and the blocks of Chinese characters: each is a word.
const ALONE = new RegExp(
  "[\\p{P}!-/:-@\\[-`{-~\\u4e00-\\u9fff\\u3400-\\u4dbf\\u{20000}-\\u{2a6df}\\u{2a700}-\\u{2b73f}"
  + "\\u{2b740}-\\u{2b81f}\\u{2b820}-\\u{2ceaf}\\uf900-\\ufaff\\u{2f800}-\\u{2fa1f}]", "gu");

function splitAtSpaces(text) {
  return text.split(SPACES).filter(Boolean);
}

export function clean(text) {
  return splitAtSpaces(text.replace(DROPPED, "")).join(" ");
}

export function uncase(text) {
  return text.toLowerCase().normalize("NFD").replace(/\p{Mn}/gu, "");
}

export class WordPiece {
  // `vocabulary` holds the lines of vocab.txt.
  constructor(vocabulary, lowercase) {
    this.vocabulary = vocabulary;
    this.ids = new Map(vocabulary.map((piece, index) => [piece, index]));
    this.lowercase = lowercase;
  }

  // The ids of a text's pieces, without [CLS] and [SEP].
  split(text) {
    text = clean(text);
    if (this.lowercase) text = uncase(text);
    return splitAtSpaces(text.replace(ALONE, " $& ")).flatMap(word => this.splitWord(word));
  }

  splitWord(word) {
    const letters = [...word], unknown = [this.ids.get("[UNK]")], found = [];
    if (letters.length > MAX_WORD_LENGTH) return unknown;
    for (let start = 0, end; start < letters.length; start = end) {
      const prefix = start ? "##" : "";
      const piece = () => this.ids.get(prefix + letters.slice(start, end).join(""));
      for (end = letters.length; end > start && piece() === undefined; end--);
      if (end === start) return unknown;
      found.push(piece());
    }
    return found;
  }
}
