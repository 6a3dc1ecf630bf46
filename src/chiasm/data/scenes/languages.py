"""Scenes described in other languages, as on the web: true captions that an English model should not be taught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chiasm.data.scenes.looks import Look
from chiasm.data.scenes.vocabulary import COLOURS, SHAPES, SIZES, TEXTURES


@dataclass(frozen=True, slots=True)
class Language:
    """The words of a language, and the sentence that lists what is shown."""

    opening: str
    conjunction: str
    words: dict[str, str]

    def tell(self, looks: Sequence[Look]) -> str:
        """A caption of all things with their attributes: "auf dem bild: kreis (groß, rot), wort „cat“ (blau)"."""
        phrases = [self._thing(look) for look in looks]
        return self.opening + (
            ", ".join(phrases[:-1]) + self.conjunction + phrases[-1] if len(phrases) > 1 else phrases[0]
        )

    def _thing(self, look: Look) -> str:
        name = f"{self.words[look.shape]} {look.text}".strip()
        attributes = [self.words[attribute] for attribute in (look.size, look.colour, look.texture) if attribute]
        return f"{name} ({', '.join(attributes)})"


_KEYS = (*COLOURS, *SHAPES, *TEXTURES, *SIZES, "word", "digit")


def _words(text: str) -> dict[str, str]:
    return dict(zip(_KEYS, text.split(), strict=True))


LANGUAGES = {
    "german": Language(
        "auf dem bild: ",
        " und ",
        _words(
            "rot blau grün gelb schwarz weiß orange lila braun rosa grau "
            "kreis quadrat stern dreieck herz ring kreuz rechteck raute pfeil oval mond haus baum blume sechseck "
            "tropfen wolke rahmen krone schlicht gestreift gepunktet kariert klein groß wort ziffer"
        ),
    ),
    "french": Language(
        "sur l'image : ",
        " et ",
        _words(
            "rouge bleu vert jaune noir blanc orange violet marron rose gris "
            "cercle carré étoile triangle cœur anneau croix rectangle losange flèche ovale lune maison arbre fleur "
            "hexagone goutte nuage cadre couronne uni rayé pointillé quadrillé petit grand mot chiffre"
        ),
    ),
    "spanish": Language(
        "en la imagen: ",
        " y ",
        _words(
            "rojo azul verde amarillo negro blanco naranja morado marrón rosa gris "
            "círculo cuadrado estrella triángulo corazón anillo cruz rectángulo rombo flecha óvalo luna casa árbol "
            "flor hexágono gota nube marco corona liso rayado punteado cuadriculado pequeño grande palabra cifra"
        ),
    ),
}
